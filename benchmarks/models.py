"""Time whole models before and after `accelerate`, and on the CPU the operator in a program compiled ahead of time.

The models are diffusers' AutoencoderKL (its decoder) and UNet2DConditionModel, narrower than in use and with random
weights. Writes results/models-cpu.json, which chapters 13 and 15 show; with --device cuda results/models-CARD.json.
"""
import argparse
import copy
import json
import re
import sys
import time
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from cpu import machine, versions
from torch import nn

from gn_nb import GroupNorm, accelerate
from gn_nb.lab.records import take_turns
from gn_nb.testing import max_error

RECORDS = Path(__file__).resolve().parent.parent/"results"
ROUNDS, WINDOW, PAUSE = 7, .1, 20e-3                                     # see take_turns; seconds
TOLERANCE = 1e-4                                                         # of what is timed, see max_error
POLICY = {"turns": f"{ROUNDS} rounds in one process; turns of {WINDOW} s or one call", "types": "float32, contiguous",
          "mode": "eval, torch.inference_mode(); random weights; batch 1", "threads": "torch.get_num_threads()"}
CARD_POLICY = {"card": "torch.cuda.synchronize() after each call: the time of one, launches and all; convolutions in "
                       "TF32, torch's default, but for the comparison of results"}


def rand(*shape): return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Decoder(nn.Module):
    "The decoder of an autoencoder alone."
    def __init__(self, autoencoder):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latent): return self.autoencoder.decode(latent, return_dict=False)[0]


def vae_decode(small=False):
    "AutoencoderKL of Stable Diffusion's shape at half its width; a latent of 32 by 32 gives an image of 256 by 256."
    from diffusers import AutoencoderKL
    widths = (32, 64) if small else (64, 128, 256, 256)
    n = len(widths)
    model = AutoencoderKL(down_block_types=("DownEncoderBlock2D",)*n, up_block_types=("UpDecoderBlock2D",)*n,
                          block_out_channels=widths, layers_per_block=1 if small else 2, norm_num_groups=32)
    size = 8 if small else 32
    return Decoder(model), (rand(1, 4, size, size),)


class Step(nn.Module):
    "One call of a U-Net of a diffusion model, its result a tensor."
    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, *args): return self.unet(*args, return_dict=False)[0]


def unet_step(small=False):
    "UNet2DConditionModel of Stable Diffusion's shape at three tenths of its width, on a latent of 32 by 32."
    from diffusers import UNet2DConditionModel
    widths = (32, 64) if small else (96, 192, 384, 384)
    n = len(widths) - 1
    model = UNet2DConditionModel(
        block_out_channels=widths, layers_per_block=1 if small else 2, cross_attention_dim=64, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D",)*n + ("DownBlock2D",), norm_num_groups=32,
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",)*n)
    size = 8 if small else 32
    return Step(model), (rand(1, 4, size, size), torch.tensor(3), rand(1, 16, 64))


MODELS = {"VAE decode": vae_decode, "U-Net step": unet_step}


def finished(call, device):
    "The call, waited for: a card goes on working after it has returned."
    if device == "cpu": return call
    def wait():
        y = call()
        torch.cuda.synchronize()
        return y
    return wait


def rows(model, calls, rounds, window, device="cpu"):
    "Checked results, then times by turns: a row for each contestant. The first is what the others must agree with."
    with torch.backends.cudnn.flags(allow_tf32=False):              # a rounding more or less would be one of ten bits
        found = {name: call().cpu() for name, call in calls.items()}
    wanted = next(iter(found.values()))
    errors = {name: max_error(y, wanted) for name, y in found.items()}
    calls = {name: finished(call, device) for name, call in calls.items()}
    for name, e in errors.items():
        if not e <= TOLERANCE: raise RuntimeError(f"{model}, {name}: wrong result, error {e:.2g}")
    turns = take_turns(calls, rounds, window, PAUSE)
    return [dict(model=model, contestant=name, min=min(t), median=median(t), repeats=repeats, error=errors[name])
            for name, (repeats, t) in turns.items()]


@torch.inference_mode()
def before_and_after(name, small, rounds, window, device):
    "Rows of a model as it is and accelerated, and what the conversion reported."
    torch.manual_seed(0)
    model, args = MODELS[name](small)
    model, args = model.to(device), [a.to(device) for a in args]
    fast = copy.deepcopy(model.eval())
    report = accelerate(fast)
    print(f"{name}: {len(report.changed)} normalizations", file=sys.stderr, flush=True)
    calls = {"torch": lambda: model(*args), "accelerated": lambda: fast(*args)}
    about = dict(name=name, parameters=sum(p.numel() for p in model.parameters()), normalizations=len(report.changed),
                 fused=sum("applies" in r.kept for r in report.changed), inputs=[[*a.shape] for a in args])
    return about, rows(name, calls, rounds, window, device)


def ahead_of_time(rounds, window):
    "A small network compiled by AOTInductor with the operator in it: what that took, and rows beside eager mode."
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), GroupNorm(8, 32, activation="silu"),
                          nn.Conv2d(32, 32, 3, padding=1), GroupNorm(8, 32, activation="silu")).eval()
    x = rand(4, 3, 64, 64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    print("AOTInductor ...", file=sys.stderr, flush=True)
    with TemporaryDirectory() as folder, torch.inference_mode():
        start = time.perf_counter()
        file = torch._inductor.aoti_compile_and_package(program, package_path=f"{folder}/model.pt2")
        seconds = time.perf_counter() - start
        compiled = torch._inductor.aoti_load_package(file)
        other = max_error(compiled(x[:1]), model(x[:1]))                     # the batch was left open
        if not other <= TOLERANCE: raise RuntimeError(f"AOTInductor, batch 1: error {other:.2g}")
        about = dict(seconds=seconds, bytes=Path(file).stat().st_size, input=[*x.shape])
        calls = {"eager": lambda: model(x), "AOTInductor": lambda: compiled(x)}
        return about, rows("AOTInductor", calls, rounds, window)


def make_record(small, device):
    "Measure everything."
    about = dict(machine=machine(), versions=versions(), date=date.today().isoformat(), policy=POLICY, quick=small)
    if device == "cuda":
        about["machine"]["card"] = torch.cuda.get_device_name()
        about["policy"] = POLICY | CARD_POLICY
    rounds, window = (2, 0.) if small else (ROUNDS, WINDOW)
    measured = [before_and_after(name, small, rounds, window, device) for name in MODELS]
    compiled, found = (None, []) if small or device == "cuda" else ahead_of_time(rounds, window)
    return about | dict(models=[m for m, _ in measured], aot=compiled,
                        rows=[row for _, some in measured for row in some] + found)


def place(device):
    "Where the record of a full run goes: models-cpu.json, models-h200.json."
    card = "cpu" if device == "cpu" else re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().removeprefix(
        "NVIDIA ").lower())
    return RECORDS/f"models-{card}.json"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny models, nothing compiled: does it work?")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="where to write the record; a full run writes results/models-*.json")
    args = parser.parse_args(argv)
    if not find_spec("diffusers"): sys.exit("diffusers is not here, and the models are its own: nothing was measured")
    if args.device == "cuda" and not torch.cuda.is_available(): sys.exit("no CUDA card is here: nothing was measured")
    record = make_record(args.quick, args.device)
    text = json.dumps(record, indent=1)
    out = args.out or (None if args.quick else place(args.device))
    if out: out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__": main()
