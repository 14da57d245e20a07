"Plausible mistakes in the exercise of chapter 22; each must be rejected."
WRONG = {
    "check_images_worth": [
        '''def images_worth(t, num_groups):
            tg = t.reshape(len(t), num_groups, -1)
            return t.var(0).mean()/tg.mean(-1).var(0).mean()''',  # variance alone
        '''def images_worth(t, num_groups):
            tg = t.reshape(len(t), num_groups, -1)
            return t.var(0).mean()/tg.mean(0).var(-1).mean() if num_groups < t.shape[1] else 1.''',  # bias alone
        '''def images_worth(t, num_groups):
            tg = t.reshape(len(t), num_groups, -1)
            return t.var()/(tg.mean(0).var(-1).mean() + tg.mean(-1).var(0).mean())''',  # channels' means in A
        '''def images_worth(t, num_groups):
            tg = t.reshape(len(t), -1, num_groups).transpose(0, 2, 1)
            return t.var(0).mean()/(tg.mean(0).var(-1).mean() + tg.mean(-1).var(0).mean())''',  # not neighbours
        '''def images_worth(t, num_groups):
            A, D = t.var(0).mean(), t.shape[1]//num_groups
            return A/(t.mean(0).reshape(num_groups, -1).var(-1).mean() + A/D)''',  # channels independent
    ],
}
