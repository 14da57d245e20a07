"Plausible mistakes in the exercise of chapter 93; each must be rejected."
WRONG = {
    "check_mean_variance": [
        "def mean_variance(x, rows, b): return x[rows].reshape(-1, b, *x.shape[1:]).flatten(1).mean(1).var()",
        # the order of the batches is not looked at
        "def mean_variance(x, rows, b): return x.reshape(-1, b, *x.shape[1:]).flatten(1).mean(1).var(correction=0)",
        "def mean_variance(x, rows, b): return x[rows].flatten(1).mean(1).var(correction=0)",           # whole batches
        "def mean_variance(x, rows, b): return x.var(correction=0)/b",             # as if the images were independent
        # the variance within slices
        """def mean_variance(x, rows, b):
    return x[rows].reshape(-1, b, *x.shape[1:]).flatten(1).var(1, correction=0).mean()""",
    ],
}
