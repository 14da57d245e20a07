"Plausible mistakes in the exercises of chapter 10; each must be rejected."
WRONG = {
    "check_constant": [
        '''def grad_of_constant(eps):                                # the value, not the gradient
    return plain(torch.full((1, 2, 3), 7., dtype=torch.float64), 1, eps=eps)[0]''',
        '''def grad_of_constant(eps):                                # float32
    x = torch.full((1, 2, 3), 7., requires_grad=True)
    return torch.autograd.grad(plain(x, 1, eps=eps)[0][0, 0, 0], x)[0]''',
        '''def grad_of_constant(eps):                                # ignores the argument
    x = torch.full((1, 2, 3), 7., dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(plain(x, 1)[0][0, 0, 0], x)[0]''',
        '''def grad_of_constant(eps):                                # of the sum, which is always 0
    x = torch.full((1, 2, 3), 7., dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(plain(x, 1, eps=eps)[0].sum(), x)[0]''',
    ],
    "check_needs": [
        "def graph_of(needs): return (True, True, True)",
        '''def graph_of(needs):                                      # the wishes, in the wrong order
    return (needs[1], needs[0], needs[2])''',
        '''def graph_of(needs):                                      # forgets to ask
    x, w, b = torch.randn(2, 4, 3), torch.randn(4), torch.randn(4)
    return tuple(t.grad is not None for t in (x, w, b))''',
        '''def graph_of(needs):                                      # whether the result has a graph
    x, w, b = (torch.randn(s, requires_grad=n) for s, n in zip(((2, 4, 3), (4,), (4,)), needs))
    return (forward_op(x, 2, w, b, 1e-5)[0].requires_grad,)*3''',
    ],
    "check_fold": [
        "def fold(weight, bias, scale, shift): return weight*scale, bias*scale + shift",  # forgets the 1
        "def fold(weight, bias, scale, shift): return weight*(1 + scale), bias + shift",  # bias not scaled
        "def fold(weight, bias, scale, shift): return weight*(1 + scale), (bias + shift)*(1 + scale)",  # shift scaled
        "def fold(weight, bias, scale, shift): return 1 + scale, shift",  # weight forgotten
    ],
}
