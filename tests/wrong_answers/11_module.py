"Plausible mistakes in the exercises of chapter 11; each must be rejected."
WRONG = {
    "check_swap": [
        '''def swap(model):                                          # top level only
    count = 0
    for name, child in model.named_children():
        if type(child) is torch.nn.GroupNorm:
            new = GroupNorm(child.num_groups, child.num_channels, child.eps, child.affine)
            new.weight, new.bias = child.weight, child.bias
            setattr(model, name, new); count += 1
    return count''',
        '''def swap(model):                                          # copies values, not the parameters
    count = 0
    for name, child in model.named_children():
        if type(child) is torch.nn.GroupNorm:
            new = GroupNorm(child.num_groups, child.num_channels, child.eps, child.affine)
            new.load_state_dict(child.state_dict())
            setattr(model, name, new); count += 1
        else: count += swap(child)
    return count''',
        '''def swap(model):                                          # eps forgotten
    count = 0
    for name, child in model.named_children():
        if type(child) is torch.nn.GroupNorm:
            new = GroupNorm(child.num_groups, child.num_channels, affine=child.affine)
            new.weight, new.bias = child.weight, child.bias
            setattr(model, name, new); count += 1
        else: count += swap(child)
    return count''',
        '''def swap(model):                                          # GroupNorm is a GroupNorm: swaps again and again
    count = 0
    for name, child in model.named_children():
        if isinstance(child, torch.nn.GroupNorm):
            new = GroupNorm(child.num_groups, child.num_channels, child.eps, child.affine)
            new.weight, new.bias = child.weight, child.bias
            setattr(model, name, new); count += 1
        else: count += swap(child)
    return count''',
    ],
    "check_decayed": [
        "def decayed(model): return list(model.parameters())",
        "def decayed(model): return [p for name, p in model.named_parameters() if not name.endswith('bias')]",
        '''def decayed(model):                                       # only our class
    return [p for m in model.modules() if type(m) is not GroupNorm
            for name, p in m.named_parameters(recurse=False) if name != "bias"]''',
        '''def decayed(model):                                       # top level only
    return [p for m in model.children() if not isinstance(m, torch.nn.GroupNorm)
            for name, p in m.named_parameters(recurse=False) if name != "bias"]''',
    ],
    "check_remembers": [
        "def remembers(module, x): return bool(list(module.buffers()))",  # batch norm does not use its own
        '''def remembers(module, x):                                 # training against evaluation
    first = module.train()(x)
    return not torch.equal(first, module.eval()(x))''',
        "def remembers(module, x): return bool(module.state_dict())",
        '''def remembers(module, x):                                 # in evaluation
    module.eval()
    first = module(x); module.train(); module(x + 1); module.eval()
    return not torch.equal(first, module(x))''',
    ],
}
