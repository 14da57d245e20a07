"Plausible mistakes in the exercise of chapter 24; each must be rejected."
WRONG = {
    "check_moved": [
        "def moved(w, num_groups, h): return h*w.sum((1, 2, 3))",  # the group's mean is not removed
        "def moved(w, num_groups, h): return np.zeros(len(w))",  # GN is blind to brightness
        '''def moved(w, num_groups, h):
            s = h*w.sum((1, 2, 3))
            return s - s.mean()''',  # one group, whatever num_groups
        '''def moved(w, num_groups, h):
            s = h*w.mean((1, 2, 3)).reshape(num_groups, -1)
            return (s - s.mean(1, keepdims=True)).ravel()''',  # mean of a filter for its sum
        '''def moved(w, num_groups, h):
            s = h*w[:, 0].sum((1, 2)).reshape(num_groups, -1)
            return (s - s.mean(1, keepdims=True)).ravel()''',  # one channel of the image
    ],
}
