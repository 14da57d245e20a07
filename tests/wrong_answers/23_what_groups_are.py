"Plausible mistakes in the exercise of chapter 23; each must be rejected."
WRONG = {
    "check_same_function": [
        "def same_function(order, num_groups): return True",  # channels arbitrary
        "def same_function(order, num_groups): return list(order) == sorted(order)",  # an order within a group counts
        '''def same_function(order, num_groups):
            D = len(order)//num_groups
            return all(c//D == k//D for k, c in enumerate(order))''',  # groups may not change places
        '''def same_function(order, num_groups):
            return all(len({c//num_groups for c in order[k:k + num_groups]}) == 1
                       for k in range(0, len(order), num_groups))''',  # G for C/G
        "def same_function(order, num_groups): return num_groups in (1, len(order))",  # the ends alone
    ],
}
