"Plausible mistakes in the exercises of chapter 15; each must be rejected."
WRONG = {
    "check_foreign": [
        """def foreign(graph): return {n.target.namespace for n in graph.nodes                    # aten is not foreign
                            if isinstance(n.target, torch._ops.OpOverload)}""",
        """def foreign(graph): return {n.target.namespace for n in graph.nodes                    # a Python function
                            if n.op == "call_function"} - {"aten"}""",
        """def foreign(graph): return {"gn_nb" for n in graph.nodes if "gn_nb" in n.name}         # an input's name""",
        """def foreign(graph): return {str(n.target) for n in graph.nodes                    # not the namespace
                            if isinstance(n.target, torch._ops.OpOverload)}""",
        """def foreign(graph): return {"gn_nb" for n in graph.nodes                      # only the one it knows
                            if n.op == "call_function" and "gn_nb" in str(n.target)}""",
    ],
    "check_shifted_variance": [
        "def shifted_variance(xg): return (xg*xg).mean(-1) - xg.mean(-1)**2",                    # no shift
        """def shifted_variance(xg):                    # one shift for all
    rest = xg - xg.flat[0]
    return (rest*rest).mean(-1) - rest.mean(-1)**2""",
        """def shifted_variance(xg):                    # NaN hidden, error kept
    return np.maximum((xg*xg).mean(-1) - xg.mean(-1)**2, 0)""",
        """def shifted_variance(xg):                    # about the first value
    rest = xg - xg[..., :1]
    return (rest*rest).mean(-1)""",
        """def shifted_variance(xg):                    # writes into its input
    xg -= xg[..., :1]
    return (xg*xg).mean(-1) - xg.mean(-1)**2""",
        "def shifted_variance(xg): return xg.astype(np.float64).var(-1)",                    # not float32
        """def shifted_variance(xg):                    # unbiased
    rest = xg - xg[..., :1]
    return rest.var(-1, ddof=1)""",
    ],
    "check_per_group": [
        "def per_group(weight, bias, num_groups): return weight[:num_groups], bias[:num_groups]",
        """def per_group(weight, bias, num_groups):                    # nothing checked
    return tuple(v.reshape(num_groups, -1)[:, 0] for v in (weight, bias))""",
        """def per_group(weight, bias, num_groups):                    # a mean is not the same
    return tuple(v.reshape(num_groups, -1).mean(1) for v in (weight, bias))""",
        """def per_group(weight, bias, num_groups):                    # the bias unchecked
    grouped = weight.reshape(num_groups, -1)
    if (grouped != grouped[:, :1]).any(): raise ValueError("weights differ")
    return grouped[:, 0], bias.reshape(num_groups, -1)[:, 0]""",
        """def per_group(weight, bias, num_groups):                    # interleaved groups
    grouped = np.stack([weight, bias]).reshape(2, -1, num_groups)
    if (grouped != grouped[:, :1]).any(): raise ValueError("channels of a group differ")
    return grouped[:, 0]""",
    ],
}
