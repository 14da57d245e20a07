"Plausible mistakes in the exercises of chapter 1; each must be rejected."
WRONG = {
    "check_depth_limit": [
        "def depth_limit(gain, floor): return math.ceil(math.log(floor)/math.log(gain))",     # one too many
        "def depth_limit(gain, floor): return math.floor(math.log(gain)/math.log(floor))",  # the fraction upside down
        "def depth_limit(gain, floor): return math.log(floor)/math.log(gain)",                # not a whole number
        # gain taken for exp(gain - 1)
        "def depth_limit(gain, floor): return math.floor(math.log(1/floor)/(1 - gain))",
    ],
    "check_counts": [
        # one mean for each sample too
        "def counts(shape): return shape[0]*shape[1], math.prod(shape[2:])",
        # that is layer normalization
        "def counts(shape): return shape[0], math.prod(shape[1:])",
        "def counts(shape): return shape[1], math.prod(shape[2:])",                           # forgets the samples
        "def counts(shape): return shape[1], shape[0]*shape[2]*shape[3]",                     # images only
    ],
    "check_batch_norm_last": [
        # the axes of channels first
        """def batch_norm_last(x, eps):
    return (x - x.mean((0, 2, 3), keepdims=True))/np.sqrt(x.var((0, 2, 3), keepdims=True) + eps)""",
        "def batch_norm_last(x, eps): return (x - x.mean((0, 1, 2)))/(x.var((0, 1, 2)) + eps)",  # variance
        "def batch_norm_last(x, eps): return (x - x.mean((0, 1, 2)))/(x.std((0, 1, 2)) + eps)",  # eps outside
        # unbiased
        "def batch_norm_last(x, eps): return (x - x.mean((0, 1, 2)))/np.sqrt(x.var((0, 1, 2), ddof=1) + eps)",
        "def batch_norm_last(x, eps): return x - x.mean((0, 1, 2))/np.sqrt(x.var((0, 1, 2)) + eps)",  # brackets
    ],
    "check_running": [
        # the biased variance
        """def running(batches, momentum):
    mean, var = 0., 1.
    for b in batches:
        mean = (1 - momentum)*mean + momentum*b.mean((0, 2, 3))
        var = (1 - momentum)*var + momentum*b.var((0, 2, 3))
    return mean, var""",
        # momentum as the share of the old value
        """def running(batches, momentum):
    mean, var = 0., 1.
    for b in batches:
        mean = momentum*mean + (1 - momentum)*b.mean((0, 2, 3))
        var = momentum*var + (1 - momentum)*b.var((0, 2, 3), ddof=1)
    return mean, var""",
        # a variance that begins with 0
        """def running(batches, momentum):
    mean, var = 0., 0.
    for b in batches:
        mean = (1 - momentum)*mean + momentum*b.mean((0, 2, 3))
        var = (1 - momentum)*var + momentum*b.var((0, 2, 3), ddof=1)
    return mean, var""",
        # plain averages
        """def running(batches, momentum):
    return np.mean([b.mean((0, 2, 3)) for b in batches], 0), np.mean([b.var((0, 2, 3), ddof=1) for b in batches], 0)""",
    ],
    "check_population": [
        "def population(means, variances): return means.mean(0), variances.mean(0)",        # forgets the means
        "def population(means, variances): return means.mean(0), variances.mean(0) + means.var(0, ddof=1)",
        "def population(means, variances): return means.mean(0), variances.mean(0)*len(means)/(len(means) - 1)",
        "def population(means, variances): return means.mean(0), np.sqrt(variances).mean(0)**2 + means.var(0)",
    ],
    "check_errors_by_partner": [
        # one batch of everybody
        """def errors_by_partner(net, image, label, partners):
    net = copy.deepcopy(net).train()
    with torch.no_grad(): logits = net(torch.cat([image[None], partners]))
    return (logits[1:].argmax(1) != label).double().mean().item()""",
        # evaluation mode: the partner plays no part
        """def errors_by_partner(net, image, label, partners):
    with torch.no_grad(): found = [net(torch.stack([image, p]))[0].argmax().item() for p in partners]
    return sum(f != label for f in found)/len(found)""",
        # the running averages are moved
        """def errors_by_partner(net, image, label, partners):
    net.train()
    with torch.no_grad(): found = [net(torch.stack([image, p]))[0].argmax().item() for p in partners]
    net.eval()
    return sum(f != label for f in found)/len(found)""",
        # the partner's answer
        """def errors_by_partner(net, image, label, partners):
    net = copy.deepcopy(net).train()
    with torch.no_grad(): found = [net(torch.stack([image, p]))[1].argmax().item() for p in partners]
    return sum(f != label for f in found)/len(found)""",
        # the share that is right
        """def errors_by_partner(net, image, label, partners):
    net = copy.deepcopy(net).train()
    with torch.no_grad(): found = [net(torch.stack([image, p]))[0].argmax().item() for p in partners]
    return sum(f == label for f in found)/len(found)""",
    ],
}
