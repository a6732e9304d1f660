"""Trains a small transformer on the characters of a book, on any number of processes, with checkpoints.

    torchrun --nproc-per-node 2 examples/torchrun_transformer.py
    python examples/torchrun_transformer.py

Every process holds a part of the parameters and of VSGD's state (FSDP2). The same command goes on from the last
checkpoint, also on another number of processes. It runs on GPUs where there are some, else on CPUs. The text is War and
Peace where VARIGRAD_DATA is a folder with `war-and-peace/warpeace_input.txt`, else the manual that comes with Python.
"""

import argparse
import os
import sys
from pathlib import Path
from pydoc_data.topics import topics

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import varigrad


class Block(nn.Module):
    """Attention to earlier characters, then a layer for each character by itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Returns x with what this block adds to it."""
        split = self.queries_keys_values(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).transpose(1, 3)
        attended = nn.functional.scaled_dot_product_attention(*split.unbind(2), is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Predicts the next character at every place of a text."""

    def __init__(self, characters: int, context: int, width: int, layers: int) -> None:
        super().__init__()
        self.characters, self.places = nn.Embedding(characters, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads=4) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters)

    def forward(self, sequences: Tensor) -> Tensor:
        """Returns the mean loss of predicting each character of the sequences from those before it."""
        text, following = sequences[:, :-1], sequences[:, 1:]
        x = self.characters(text) + self.places(torch.arange(text.shape[1], device=text.device))
        for block in self.blocks:
            x = block(x)
        return nn.functional.cross_entropy(self.head(self.norm(x)).flatten(0, 1).float(), following.flatten())


def start() -> torch.device:
    """Joins the processes that torchrun has started, or makes a group of this one alone; returns its device."""
    on_gpu = torch.cuda.is_available()
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    if not on_gpu:
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cuda")


def read_text() -> tuple[Tensor, int]:
    """Returns a text as numbers, and how many characters there are."""
    book = Path(os.environ.get("VARIGRAD_DATA", ".")) / "war-and-peace" / "warpeace_input.txt"
    text = book.read_text("utf-8") if book.is_file() else "\n".join(topics.values())
    number = {character: i for i, character in enumerate(sorted(set(text)))}
    return torch.tensor([number[character] for character in text]), len(number)


def batch(text: Tensor, step: int, size: int, context: int) -> Tensor:
    """Returns this process's part of a step's batch: a function of the step, so that a resumed run draws the same."""
    starts = torch.randint(len(text) - context, (size,), generator=torch.Generator().manual_seed(step))
    here = starts.tensor_split(dist.get_world_size())[dist.get_rank()]
    return torch.stack([text[i : i + context + 1] for i in here.tolist()])


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Writes a checkpoint, each process its part."""
    model_state, optimizer_state = get_state_dict(model, optimizer)
    dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder)


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Reads a checkpoint, each process what it needs, however many wrote it."""
    model_state, optimizer_state = get_state_dict(model, optimizer)
    dcp.load({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=model_state, optim_state_dict=optimizer_state)


def last_checkpoint(folder: Path) -> int:
    """Returns the step of the last complete checkpoint, 0 if there is none; what is written last says it is whole."""
    return max((int(file.parent.name) for file in folder.glob("*/.metadata")), default=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("checkpoints"), help="where the checkpoints are")
    parser.add_argument("--steps", type=int, default=300, help="the step to train to")
    parser.add_argument("--save-every", type=int, default=100, help="the steps between two checkpoints")
    parser.add_argument("--batch-size", type=int, default=32, help="sequences per step, over all processes")
    parser.add_argument("--context", type=int, default=64, help="characters per sequence")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--bfloat16", action="store_true", help="keep parameters and state in 16 bits")
    args = parser.parse_args()

    device = start()
    if args.batch_size % dist.get_world_size() != 0:
        parser.error(f"--batch-size {args.batch_size} must be a multiple of the {dist.get_world_size()} processes")
    text, characters = read_text()
    torch.manual_seed(0)  # the same weights on every process
    dtype = torch.bfloat16 if args.bfloat16 else torch.float32
    model = Transformer(characters, args.context, args.width, args.layers).to(device, dtype)

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    state_dtype = torch.bfloat16 if args.bfloat16 else None
    optimizer = varigrad.VSGD(model.parameters(), lr=args.lr, state_dtype=state_dtype)

    done = last_checkpoint(args.folder)
    if done:
        load(args.folder / str(done), model, optimizer)
    if dist.get_rank() == 0:
        print(f"{dist.get_world_size()} process(es), from step {done}", flush=True)

    for step in range(done + 1, args.steps + 1):
        loss = model(batch(text, step, args.batch_size, args.context).to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == args.steps:
            mean = loss.detach() / dist.get_world_size()
            dist.all_reduce(mean)
            if dist.get_rank() == 0:
                print(f"step {step}: loss {mean:.6f}", flush=True)
        if step % args.save_every == 0 or step == args.steps:
            save(args.folder / str(step), model, optimizer)
    dist.barrier()  # none leaves while another is still writing
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    # torch keeps the mesh of a sharded model, and with it Gloo's threads: one that still lets go of a tensor while
    # Python takes itself down aborts the process. All is written, so it ends without being taken down.
    sys.stdout.flush()
    os._exit(0)
