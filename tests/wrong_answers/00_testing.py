"Plausible mistakes in the exercises of chapter 0; each must be rejected."
WRONG = {
    "check_worst": [
        "def worst(a, b): return int(np.argmax(np.abs(a - b)))",  # absolute only
        "def worst(a, b): return int(np.argmax(np.abs(a - b)/np.abs(b)))",  # relative only
        "def worst(a, b): return int(np.argmax(np.nan_to_num(np.abs(a - b)/np.maximum(1, np.abs(b)))))",  # NaN forgiven
        "def worst(a, b): return int(np.argmax(np.abs(a - b)/np.maximum(1, np.abs(a))))",  # the result sets the scale
        "def worst(a, b): return int(np.argmax(np.abs(a - b)/(1 + np.abs(b))))",
        "def worst(a, b): return float(np.max(np.abs(a - b)/np.maximum(1, np.abs(b))))",  # the error, not where
    ],
    "check_blind": [
        "def blind(case): return case.num_groups == 1",                    # forgets the empty arrays
        "def blind(case): return case.num_groups in (1, case.shape[1])",   # takes G = C for G = 1
        "def blind(case): return len(case.shape) == 2",
        "def blind(case): return case.num_groups == 1 or math.prod(case.shape) == 0",      # forgets the equal values
    ],
    "check_directional": [
        "def directional(f, x, v, d, h): return np.sum(v*(f(x + h*d) - f(x)))/h",            # one-sided
        "def directional(f, x, v, d, h): return np.sum(v*(f(x + h*d) - f(x - h*d)))/h",      # forgets the 2
        "def directional(f, x, v, d, h): return v*(f(x + h*d) - f(x - h*d))/(2*h)",          # forgets the sum
        "def directional(f, x, v, d, h): return np.sum(d*(f(x + h*d) - f(x - h*d)))/(2*h)",  # d for v
        # each input moved by itself
        "def directional(f, x, v, d, h): return np.sum(v*d*(f(x + h) - f(x - h)))/(2*h)",
    ],
}
