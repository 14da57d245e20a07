"Plausible mistakes in the exercises of chapter 3; each must be rejected."
WRONG = {
    "check_position": [
        "def position_sets(shape): return np.indices(shape)[2]",  # samples shared
        "def position_sets(shape): n, _, p = np.indices(shape); return n*shape[1] + p",                # C for S
        "def position_sets(shape): n, c, p = np.indices(shape); return (n*shape[1] + c)*shape[2] + p",  # each alone
        "def position_sets(shape): n, c, _ = np.indices(shape); return n*shape[1] + c",                # instance norm
    ],
    "check_gn": [
        "def gn(x, G, weight, bias, eps): return F.group_norm(x, G, weight, bias, eps)",       # somebody else's
        '''def gn(x, G, weight, bias, eps):                       # unbiased variance
    xg = x.reshape(len(x), G, -1)
    xhat = (xg - xg.mean(-1, keepdim=True))/(xg.var(-1, keepdim=True) + eps).sqrt()
    per = (-1, *(1,)*(x.ndim - 2))
    return xhat.reshape(x.shape)*weight.reshape(per) + bias.reshape(per)''',
        '''def gn(x, G, weight, bias, eps):                       # eps outside the root
    xg = x.reshape(len(x), G, -1)
    xhat = (xg - xg.mean(-1, keepdim=True))/(xg.std(-1, correction=0, keepdim=True) + eps)
    per = (-1, *(1,)*(x.ndim - 2))
    return xhat.reshape(x.shape)*weight.reshape(per) + bias.reshape(per)''',
        '''def gn(x, G, weight, bias, eps):                       # the bias before the weight
    xg = x.reshape(len(x), G, -1)
    xhat = (xg - xg.mean(-1, keepdim=True))/(xg.var(-1, correction=0, keepdim=True) + eps).sqrt()
    per = (-1, *(1,)*(x.ndim - 2))
    return (xhat.reshape(x.shape) + bias.reshape(per))*weight.reshape(per)''',
        '''def gn(x, G, weight, bias, eps):                       # channels dealt out, not neighbours
    xg = x.reshape(len(x), x.shape[1]//G, G, -1).transpose(1, 2).reshape(len(x), G, -1)
    xhat = (xg - xg.mean(-1, keepdim=True))/(xg.var(-1, correction=0, keepdim=True) + eps).sqrt()
    xhat = xhat.reshape(len(x), G, x.shape[1]//G, -1).transpose(1, 2).reshape(x.shape)
    per = (-1, *(1,)*(x.ndim - 2))
    return xhat*weight.reshape(per) + bias.reshape(per)''',
        '''def gn(x, G, weight, bias, eps):                       # groups across the samples
    xg = x.reshape(G, -1)
    xhat = (xg - xg.mean(-1, keepdim=True))/(xg.var(-1, correction=0, keepdim=True) + eps).sqrt()
    per = (-1, *(1,)*(x.ndim - 2))
    return xhat.reshape(x.shape)*weight.reshape(per) + bias.reshape(per)''',
    ],
    "check_free": [
        "def free_biases(C, G): return C",
        "def free_biases(C, G): return G",
        "def free_biases(C, G): return C - 1",
        "def free_biases(C, G): return C//G - 1",
    ],
    "check_choices": [
        "def choices(C, limit=32): return [G for G in range(1, min(limit, C) + 1) if C % G == 0]",  # one each
        "def choices(C, limit=32): return [G for G in (1, 2, 4, 8, 16, 32) if G <= limit and C % G == 0 and G < C]",
        "def choices(C, limit=32): return [G for G in range(1, min(limit, C//2)) if C % G == 0]",         # off by one
        "def choices(C, limit=32): return [G for G in range(2, min(limit, C//2) + 1) if C % G == 0]",     # forgets LN
    ],
}
