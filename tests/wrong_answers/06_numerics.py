"Plausible mistakes in the exercises of chapter 6; each must be rejected."
WRONG = {
    "check_round_to": [
        """def round_to(x, p):
    m, e = np.frexp(x)
    return np.ldexp(np.trunc(np.ldexp(m, p)), e - p)""",                                   # cuts
        """def round_to(x, p):
    m, e = np.frexp(x)
    return np.ldexp(np.floor(np.ldexp(m, p) + .5), e - p)""",                              # ties go up
        """def round_to(x, p):
    m, e = np.frexp(x)
    return np.ldexp(np.rint(np.ldexp(m, p - 1)), e - p + 1)""",                            # one bit short
        "def round_to(x, p): return np.round(x, p)",                                       # decimals
        "def round_to(x, p): return np.ldexp(np.rint(np.ldexp(x, p)), -p)",                # fixed point
        """def round_to(x, p):
    t = x*(2.**(53 - p) + 1)
    return t - (t - x) if p < 20 else x""",  # splitting, only for small p
    ],
    "check_unmerge": [
        "def unmerge(whole, part): return tuple(a - b for a, b in zip(whole, part))",      # differences
        """def unmerge(whole, part):
    (n, mean, M2), (na, mean_a, M2_a) = whole, part
    nb = n - na
    mean_b = (n*mean - na*mean_a)/nb
    return nb, mean_b, M2 - M2_a""",                                                       # forgets what is between
        """def unmerge(whole, part):
    (n, mean, M2), (na, mean_a, M2_a) = whole, part
    nb = n - na
    mean_b = (n*mean - na*mean_a)/nb
    return nb, mean_b, M2 - M2_a - (mean - mean_a)**2*na*nb/n""",                          # delta from the whole
        """def unmerge(whole, part):
    (n, mean, M2), (na, mean_a, M2_a) = whole, part
    nb = n - na
    mean_b = mean + (mean - mean_a)*nb/na
    return nb, mean_b, M2 - M2_a - (mean_b - mean_a)**2*na*nb/n""",                        # counts swapped
        """def unmerge(whole, part):
    (n, mean, M2), (na, mean_a, M2_a) = whole, part
    nb = n - na
    mean_b = (n*mean - na*mean_a)/nb
    return nb, mean_b, M2 - M2_a - (mean_b - mean_a)**2*na*nb/(na + n)""",                 # the whole counted twice
        """def unmerge(whole, part):
    (n, mean, M2), (na, mean_a, M2_a) = whole, part
    nb = n - na
    mean_b = (n*mean - na*mean_a)/nb
    return nb, mean_b, M2 - M2_a + (mean_b - mean_a)**2*na*nb/n""",                        # the sign of merge
    ],
    "check_center": [
        "def center(x): return x - x.mean()",                                              # loses kappa*u
        "def center(x): return (x - x[0]) - (x - x[0]).mean()",                            # x[0] may be far away
        "def center(x): return x - x[0]",  # an element is not the mean
        "def center(x): return x - (x[0] + (x - x[0]).mean())",                            # shifted, but folded back
        "def center(x): return x - x.astype(np.float64).mean()",                           # right, but float64
        "def center(x): return x - np.float32(x.astype(np.float64).mean())",               # a good mean, in one float
    ],
    "check_std_for": [
        "def std_for(shrink, eps): return eps*shrink**2/(1 - shrink**2)",                  # the variance
        "def std_for(shrink, eps): return shrink*np.sqrt(eps)",
        "def std_for(shrink, eps): return np.sqrt(eps*shrink/(1 - shrink))",               # forgets the squares
        "def std_for(shrink, eps): return eps*shrink/(1 - shrink)",                        # eps outside the root
    ],
    "check_hidden": [
        "def hidden(weight, num_groups): return (weight == weight[0]).all()",              # equal everywhere
        """def hidden(weight, num_groups):
    return (np.diff(weight.reshape(-1, num_groups), axis=0) == 0).all()""",                # groups dealt out
        "def hidden(weight, num_groups): return len(set(weight)) <= num_groups",           # counts values
        "def hidden(weight, num_groups): return num_groups == len(weight)",                # G = C alone
    ],
}
