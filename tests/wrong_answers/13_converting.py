"Plausible mistakes in the exercises of chapter 13; each must be rejected."
WRONG = {
    "check_most_groups": [
        "def most_groups(C): return gcd_groups(C)",
        "def most_groups(C): return max(G for G in range(1, 33) if C % G == 0)",                # groups of one channel
        "def most_groups(C): return max((G for G in range(1, C) if C % G == 0), default=1)",    # more than 32
        "def most_groups(C): return min(32, max(1, C//2))",                                     # need not divide
        "def most_groups(C): return max((G for G in range(1, 32) if C % G == 0 and C//G >= 2), default=1)",
    ],
    "check_folded": [
        """def folded(bn):                                                                      # the weight forgotten
    weight = 1/(bn.running_var + bn.eps).sqrt()
    return weight, bn.bias - weight*bn.running_mean""",
        """def folded(bn):                                                                      # eps forgotten
    weight = bn.weight/bn.running_var.sqrt()
    return weight, bn.bias - weight*bn.running_mean""",
        """def folded(bn):                                                                      # the mean forgotten
    weight = bn.weight/(bn.running_var + bn.eps).sqrt()
    return weight, bn.bias""",
        """def folded(bn):                                                                      # eps outside the root
    weight = bn.weight/(bn.running_var.sqrt() + bn.eps)
    return weight, bn.bias - weight*bn.running_mean""",
        """def folded(bn):                                                                      # eps of the default
    weight = bn.weight/(bn.running_var + 1e-5).sqrt()
    return weight, bn.bias - weight*bn.running_mean""",
        """def folded(bn):                                                                      # the mean not scaled
    return bn.weight/(bn.running_var + bn.eps).sqrt(), bn.bias - bn.running_mean""",
        """def folded(bn):                                                                      # variance, not its root
    weight = bn.weight/(bn.running_var + bn.eps)
    return weight, bn.bias - weight*bn.running_mean""",
    ],
    "check_recalibrated": [
        """def recalibrated(z, weight, bias, eps):                                         # over samples only
    var, mean = torch.var_mean(z, 0, correction=0)
    return weight/(var + eps).sqrt(), bias - weight/(var + eps).sqrt()*mean""",
        """def recalibrated(z, weight, bias, eps):                                         # old weight in the bias
    var, mean = torch.var_mean(z, [d for d in range(z.ndim) if d != 1], correction=0)
    return weight/(var + eps).sqrt(), bias - weight*mean""",
        """def recalibrated(z, weight, bias, eps):                                         # variance, not its root
    var, mean = torch.var_mean(z, [d for d in range(z.ndim) if d != 1], correction=0)
    return weight/(var + eps), bias - weight/(var + eps)*mean""",
        """def recalibrated(z, weight, bias, eps):                                         # the sign lost
    var, mean = torch.var_mean(z, [d for d in range(z.ndim) if d != 1], correction=0)
    new = weight.abs()/(var + eps).sqrt()
    return new, bias - new*mean""",
        """def recalibrated(z, weight, bias, eps):                                         # eps outside the root
    var, mean = torch.var_mean(z, [d for d in range(z.ndim) if d != 1], correction=0)
    new = weight/(var.sqrt() + eps)
    return new, bias - new*mean""",
    ],
}
