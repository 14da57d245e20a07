"Plausible mistakes in the exercises of chapter 2; each must be rejected."
WRONG = {
    "check_undo": [
        "def undo(y, mean, rstd): return y*rstd.reshape(-1, 1, 1, 1) + mean.reshape(-1, 1, 1, 1)",  # normalizes twice
        "def undo(y, mean, rstd): return (y + mean.reshape(-1, 1, 1, 1))/rstd.reshape(-1, 1, 1, 1)",  # the wrong order
        "def undo(y, mean, rstd): return y/rstd + mean",                             # broadcasts along the last axis
        "def undo(y, mean, rstd): return y/rstd.reshape(1, -1, 1, 1) + mean.reshape(1, -1, 1, 1)",       # by channel
        "def undo(y, mean, rstd): return y/rstd.reshape(-1, 1, 1, 1)",  # forgets the mean
    ],
    "check_removed": [
        # forgets sets of a single value
        '''def removed(shape, norm):
    s = sizes(shape, 1)
    return 2*{"batch": s.C, "layer": s.N, "instance": s.N*s.C}[norm]''',
        # counts means alone
        '''def removed(shape, norm):
    s = sizes(shape, 1)
    return {"batch": s.C, "layer": s.N, "instance": s.N*s.C}[norm]''',
        # layer and batch exchanged
        '''def removed(shape, norm):
    s = sizes(shape, 1)
    sets, values = {"layer": (s.C, s.N*s.S), "batch": (s.N, s.C*s.S), "instance": (s.N*s.C, s.S)}[norm]
    return sets*min(2, values)''',
        # looks at space alone for every norm
        '''def removed(shape, norm):
    s = sizes(shape, 1)
    return {"batch": s.C, "layer": s.N, "instance": s.N*s.C}[norm]*min(2, s.S)''',
    ],
    "check_pixel_norm": [
        # the whole sample
        '''def pixel_norm(x, weight, bias): return F.group_norm(x, 1, weight, bias)''',
        # the last axis, which happens to have the right length
        '''def pixel_norm(x, weight, bias): return F.layer_norm(x, (x.shape[1],), weight, bias)''',
        # the channels are not moved back
        '''def pixel_norm(x, weight, bias): return F.layer_norm(x.movedim(1, -1), (x.shape[1],), weight, bias)''',
        # reshape instead of a permutation
        '''def pixel_norm(x, weight, bias):
    N, C, H, W = x.shape
    return F.layer_norm(x.reshape(N, H, W, C), (C,), weight, bias).reshape(N, C, H, W)''',
        # the unbiased variance
        '''def pixel_norm(x, weight, bias):
    y = (x - x.mean(1, keepdim=True))/(x.var(1, keepdim=True) + 1e-5).sqrt()
    return y*weight.reshape(-1, 1, 1) + bias.reshape(-1, 1, 1)''',
    ],
    "check_repair": [
        "def repair(means, stds, mean, std): return stds/std, (mean - means)/stds",  # the weight upside down
        "def repair(means, stds, mean, std): return std/stds, (means - mean)/stds",            # the sign of the bias
        "def repair(means, stds, mean, std): return std/stds, (mean - means)/std",             # the layer's unit
        "def repair(means, stds, mean, std): return std/stds, np.zeros(len(stds))",            # no bias
        "def repair(means, stds, mean, std): return std/stds, mean - means",                   # bias before the scale
    ],
}
