"Plausible mistakes in the exercises of chapter 5; each must be rejected."
WRONG = {
    "check_effective_pixels": [
        "def effective_pixels(R): return len(R)",  # as if independent
        "def effective_pixels(R): return len(R)/(1 + (len(R) - 1)*R.mean())",  # rho with the diagonal
        "def effective_pixels(R): return len(R)/(1 + len(R)*(R.sum() - len(R))/(len(R)*(len(R) - 1)))",  # S for S - 1
        "def effective_pixels(R): return np.trace(R)**2/np.square(R).sum()",  # participation ratio
        "def effective_pixels(R): return np.sum(R)/len(R)**2",  # upside down
    ],
    "check_group_mse": [
        '''def group_mse(means, cov, D):
            return means.reshape(-1, D).var(1).mean() + np.trace(cov)/len(means)/D''',  # channels uncorrelated
        '''def group_mse(means, cov, D):
            groups = np.arange(len(means)).reshape(-1, D)
            return np.mean([cov[np.ix_(g, g)].sum()/D**2 for g in groups])''',  # variance alone
        '''def group_mse(means, cov, D):
            groups = np.arange(len(means)).reshape(-1, D)
            return np.mean([means[g].var(ddof=min(1, D - 1)) + cov[np.ix_(g, g)].sum()/D**2 for g in groups])''',
        '''def group_mse(means, cov, D):
            groups = np.arange(len(means)).reshape(-1, D)
            return np.mean([means[g].var() + cov[np.ix_(g, g)].sum()/D for g in groups])''',  # D for D squared
        '''def group_mse(means, cov, D):
            groups = np.arange(len(means)).reshape(D, -1).T
            return np.mean([means[g].var() + cov[np.ix_(g, g)].sum()/D**2 for g in groups])''',  # interleaved groups
    ],
    "check_best_num_groups": [
        '''def best_num_groups(means, cov):
            C = len(means)
            return C if np.trace(cov)/C > np.var(means, ddof=1) else 1''',  # G and D confused
        '''def best_num_groups(means, cov):
            C = len(means)
            return 1 if np.trace(cov)/C > np.var(means, ddof=1) else C''',  # forgets the covariance
        '''def best_num_groups(means, cov):
            C = len(means)
            A, B = np.trace(cov)/C, (cov.sum() - np.trace(cov))/(C*(C - 1))
            return 1 if A - B > np.var(means) else C''',  # C for C - 1
        "def best_num_groups(means, cov): return 2",  # the golden mean
        '''def best_num_groups(means, cov):
            C = len(means)
            A, B = np.median(np.diag(cov)), (cov.sum() - np.trace(cov))/(C*(C - 1))
            return 1 if A - B > np.var(means, ddof=1) else C''',
    ],
    "check_repaired_variance": [
        "def repaired_variance(means, variances): return variances.mean() + means.var()",  # no repair
        "def repaired_variance(means, variances): return variances.mean()",  # inside the images alone
        '''def repaired_variance(means, variances):
            b = len(means)
            return (variances.mean() + means.var())*b/(b - 1)''',  # Bessel over images, of all
        '''def repaired_variance(means, variances):
            return variances.mean() + means.var() + means.var()/len(means)''',  # A is biased itself
        '''def repaired_variance(means, variances):
            return variances.mean() + means.var() + means.var(ddof=1)''',  # forgets b
        '''def repaired_variance(means, variances):
            return variances.mean() + means.var(ddof=1)/len(means)''',  # the repair without what was there
    ],
    "check_fold": [
        '''def fold(mean, var, weight, bias, num_groups):
            mg, vg = mean.reshape(num_groups, -1), var.reshape(num_groups, -1)
            D = mg.shape[1]
            new_weight = weight*np.sqrt(vg.mean(1)).repeat(D)/np.sqrt(var)
            return new_weight, bias - weight*(mean - mg.mean(1).repeat(D))/np.sqrt(var)''',  # forgets the spread
        '''def fold(mean, var, weight, bias, num_groups):
            mg, vg = mean.reshape(num_groups, -1), var.reshape(num_groups, -1)
            D = mg.shape[1]
            std = np.sqrt(vg.mean(1) + mg.var(1)).repeat(D)
            return weight*std/np.sqrt(var), bias + weight*(mean - mg.mean(1).repeat(D))/np.sqrt(var)''',  # sign
        '''def fold(mean, var, weight, bias, num_groups):
            mg, vg = mean.reshape(num_groups, -1), var.reshape(num_groups, -1)
            D = mg.shape[1]
            var_g = (vg.mean(1) + mg.var(1)).repeat(D)
            return weight*var_g/var, bias - weight*(mean - mg.mean(1).repeat(D))/var''',  # variances for deviations
        '''def fold(mean, var, weight, bias, num_groups):
            mg, vg = mean.reshape(num_groups, -1), var.reshape(num_groups, -1)
            D = mg.shape[1]
            std = np.sqrt(vg.mean(1) + mg.var(1)).repeat(D)
            return weight*std/np.sqrt(var), bias - weight*(mean - mg.mean(1).repeat(D))/std''',  # bias by std of group
        '''def fold(mean, var, weight, bias, num_groups):
            mg, vg = mean.reshape(num_groups, -1), var.reshape(num_groups, -1)
            D = mg.shape[1]
            std = np.sqrt(vg.mean(1) + mg.var(1)).repeat(D)
            return weight*std/np.sqrt(var), bias - (mean - mg.mean(1).repeat(D))/np.sqrt(var)''',  # bias without weight
        '''def fold(mean, var, weight, bias, num_groups):
            mg, vg = mean.reshape(num_groups, -1), var.reshape(num_groups, -1)
            return np.sqrt(vg.mean(1) + mg.var(1))/np.sqrt(vg.mean(1)), -mg.mean(1)/np.sqrt(vg.mean(1))''',  # per group
    ],
    "check_crossing": [
        '''def crossing(t, D):
            means, mu = t.mean(0).reshape(-1, D), t.reshape(len(t), -1, D).mean(-1)
            return (means.var(-1).mean() + mu.var(0).mean())/t.var(0).mean()''',  # upside down
        "def crossing(t, D): return t.var(0).mean()/t.reshape(len(t), -1, D).mean(-1).var(0).mean()",  # no bias
        "def crossing(t, D): return D",  # the bound
        '''def crossing(t, D):
            means = t.mean(0).reshape(-1, D)
            return t.var(0).mean()/(means.var(-1).mean() + t.var(0).mean()/D)''',  # channels uncorrelated
        '''def crossing(t, D):
            means, mu = t.mean(0).reshape(-1, D), t.reshape(len(t), -1, D).mean(-1)
            return t.var()/(means.var(-1).mean() + mu.var(0).mean())''',  # spread counted in A
    ],
}
