"Plausible mistakes in the exercise of chapter 94; each must be rejected."
WRONG = {
    "check_group_sizes": [
        "def group_sizes(net): return [m.num_groups for m in net.modules() if isinstance(m, nn.GroupNorm)]",
        # those inside other modules are missed
        "def group_sizes(net): return [m.num_channels//m.num_groups for m in net if isinstance(m, nn.GroupNorm)]",
        "def group_sizes(net): return [m.num_channels for m in net.modules() if isinstance(m, nn.GroupNorm)]",
        # batch normalization has no groups
        """def group_sizes(net):
    return [getattr(m, "num_channels", 1)//getattr(m, "num_groups", 1) for m in net.modules()
            if isinstance(m, nn.GroupNorm | BatchNorm)]""",
    ],
}
