"Plausible mistakes in the exercises of chapter 4; each must be rejected."
XHAT = "    xhat = ((grouped(x, num_groups) - mean[..., None, None])*rstd[..., None, None]).reshape(x.shape)\n"
WRONG = {
    "check_scale_gradients": [
        "def scale_gradients(dy, x, mean, rstd, num_groups):\n" + XHAT +
        "    return (dy*xhat).sum((0, 2, 3)), dy.sum((0, 2, 3))",                       # sums over the samples too
        "def scale_gradients(dy, x, mean, rstd, num_groups):\n" + XHAT +
        "    return (dy*xhat).mean((2, 3)), dy.mean((2, 3))",                           # a mean, not a sum
        "def scale_gradients(dy, x, mean, rstd, num_groups):\n"
        "    return (dy*x).sum((2, 3)), dy.sum((2, 3))",                                # x for xhat
        "def scale_gradients(dy, x, mean, rstd, num_groups):\n" + XHAT +
        "    return dy.sum((2, 3)), (dy*xhat).sum((2, 3))",                             # in the other order
        "def scale_gradients(dy, x, mean, rstd, num_groups):\n"
        "    xhat = grouped(x, num_groups)*rstd[..., None, None]\n"
        "    return (dy*xhat.reshape(x.shape)).sum((2, 3)), dy.sum((2, 3))",            # the mean left in
    ],
    "check_unseen": [
        "def unseen(dy, xhat): return dy - dy.mean()",                                  # sigma forgotten
        "def unseen(dy, xhat): return dy - xhat*(dy*xhat).mean()/np.square(xhat).mean()",       # the mean forgotten
        "def unseen(dy, xhat): return dy - dy.mean() - xhat*(dy*xhat).mean()",          # takes mean(xhat**2) for 1
        "def unseen(dy, xhat): return np.zeros_like(dy)",                               # true, and removes everything
        "def unseen(dy, xhat): return dy - dy.mean() - xhat*(dy*xhat).sum()",           # a sum for a mean
        "def unseen(dy, xhat): return dy.mean() + xhat*(dy*xhat).mean()/np.square(xhat).mean()",    # the other part
    ],
    "check_pair": [
        "def pair(a, b, da, db, eps): return 0.",                                       # eps forgotten
        "def pair(a, b, da, db, eps):\n"
        "    v = (a - b)**2/4\n"
        "    return (da - db)/2*(1 - v/(v + eps))/np.sqrt(v + eps)",                    # cancels
        "def pair(a, b, da, db, eps):\n"
        "    v = (a - b)**2/2\n"
        "    return (da - db)/2*eps/(v + eps)**1.5",                                    # the unbiased variance
        "def pair(a, b, da, db, eps):\n"
        "    v = (a - b)**2/4\n"
        "    return (da - db)*eps/(v + eps)**1.5",                                      # a factor of 2
        "def pair(a, b, da, db, eps):\n"
        "    v = (a - b)**2/4\n"
        "    return (da - db)/2*eps/(v + eps)",                                         # 1/sigma forgotten
    ],
    "check_dx_from_y": [
        "def dx_from_y(dy, y, rstd, num_groups, weight, bias):\n"
        "    xhat, g = (a.reshape(len(y), num_groups, -1) for a in (y, dy*weight))\n"   # y for xhat
        "    dx = rstd[..., None]*(g - g.mean(-1, keepdims=True) - xhat*(g*xhat).mean(-1, keepdims=True))\n"
        "    return dx.reshape(y.shape)",
        "def dx_from_y(dy, y, rstd, num_groups, weight, bias):\n"
        "    xhat, g = (a.reshape(len(y), num_groups, -1) for a in (y/weight - bias, dy*weight))\n"  # order
        "    dx = rstd[..., None]*(g - g.mean(-1, keepdims=True) - xhat*(g*xhat).mean(-1, keepdims=True))\n"
        "    return dx.reshape(y.shape)",
        "def dx_from_y(dy, y, rstd, num_groups, weight, bias):\n"
        "    xhat, g = (a.reshape(len(y), num_groups, -1) for a in ((y - bias)/weight, dy))\n"  # no weight in g
        "    dx = rstd[..., None]*(g - g.mean(-1, keepdims=True) - xhat*(g*xhat).mean(-1, keepdims=True))\n"
        "    return dx.reshape(y.shape)",
        "def dx_from_y(dy, y, rstd, num_groups, weight, bias):\n"
        "    xhat, g = (a.reshape(len(y), num_groups, -1) for a in ((y - bias)/weight, dy*weight))\n"   # rstd forgotten
        "    dx = g - g.mean(-1, keepdims=True) - xhat*(g*xhat).mean(-1, keepdims=True)\n"
        "    return dx.reshape(y.shape)",
    ],
    "check_dweight_along": [
        "def dweight_along(dy, x, u, num_groups, eps): return (dy*u).sum((0, 2))",      # xhat' taken for u
        "def dweight_along(dy, x, u, num_groups, eps):\n"
        "    _, mean, rstd = forward(x, num_groups, eps=eps)\n"
        "    u_over_sigma = (grouped(u, num_groups)*rstd[..., None, None]).reshape(x.shape)\n"
        "    return (dy*u_over_sigma).sum((0, 2))",                                     # statistics held constant
        "def dweight_along(dy, x, u, num_groups, eps):\n"
        "    _, mean, rstd = forward(x, num_groups, eps=eps)\n"
        "    return (dy*backward(dy, x, mean, rstd, num_groups)[0]).sum((0, 2))",       # along dy
        "def dweight_along(dy, x, u, num_groups, eps):\n"
        "    _, mean, rstd = forward(x, num_groups)\n"
        "    return (dy*backward(u, x, mean, rstd, num_groups)[0]).sum((0, 2))",        # the default eps
        "def dweight_along(dy, x, u, num_groups, eps):\n"
        "    def dweight(x):\n"
        "        _, mean, rstd = forward(x, num_groups, eps=eps)\n"
        "        return backward(dy, x, mean, rstd, num_groups)[1]\n"
        "    return (dweight(x + 1e-5*u) - dweight(x - 1e-5*u))/2e-5",                   # differences
    ],
}
