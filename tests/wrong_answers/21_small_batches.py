"Plausible mistakes in the exercise of chapter 21; each must be rejected."
WRONG = {
    "check_images_needed": [
        "def images_needed(A, sigma2, share): return math.ceil(1/share**2*(1 - 1e-9))",  # every image worth one value
        "def images_needed(A, sigma2, share): return math.ceil(A/(sigma2*share)*(1 - 1e-9))",  # variance for deviation
        "def images_needed(A, sigma2, share): return max(1, int(A/(sigma2*share**2)))",  # rounded down
        "def images_needed(A, sigma2, share): return math.ceil(sigma2/(A*share**2)*(1 - 1e-9))",  # upside down
        "def images_needed(A, sigma2, share): return max(1, math.ceil(A/share**2*(1 - 1e-9)))",  # not in units of sigma
    ],
}
