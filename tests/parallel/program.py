"""Four processes that share networks over gloo, all cases in one start; what they find is printed as JSON.

The last case ends process 1 in the middle of a step, so that the others find it gone. With the argument
"full" the networks are the published ones: some minutes.
"""

import copy
import json
import os
import sys
import tempfile
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch._dynamo  # DistributedDataParallel imports it: once here, not in every process
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import regroup.networks
from regroup.errors import ConfigError, ParallelError
from regroup.parallel import gathered, gathered_optimizer, scattered, scattered_optimizer, shard
from tests.parallel.layerwise import LR, MOMENTUM, Layerwise
from tests.parallel.magnitude import digits
from tests.parallel.networks import SIZES, alexnet, batch, condensenet, shufflenet, started
from tests.parallel.training import trained
from tests.stores import SharedFileSystem as SharedFileSystem  # shared://

WORLD = 4
BATCH = {}
"""Images of a step, of those networks that get others than 8."""
PATIENCE = timedelta(seconds=600 if "full" in sys.argv else 60)  # the long run gets what others leave
NAMES = {
    "all_to_all_single",
    "all_reduce",
    "all_gather_into_tensor",
    "all_gather_single",
    "reduce_scatter_tensor",
    "reduce_scatter_single",
}


class Counted:
    """Counts what collectives bring to this process, in the calls that reach PyTorch."""

    def __enter__(self):
        self.received, self.calls = 0, {}
        self._real = {}
        for name in NAMES & set(dir(distributed)):
            self._real[name] = getattr(distributed, name)
            setattr(distributed, name, self._counting(name))
        return self

    def __exit__(self, *_):
        for name, real in self._real.items():
            setattr(distributed, name, real)

    def _counting(self, name):
        def call(out, *args, group, async_op):
            if not out.is_floating_point():  # whether they are at one, on the first call
                return self._real[name](out, *args, group=group, async_op=async_op)
            world, here = distributed.get_world_size(group), distributed.get_rank(group)
            if name == "all_to_all_single":
                _, receive, _ = args
                others = sum(receive) - receive[here]
                self.received += others * (out.nbytes // len(out) if len(out) else 0)
            elif "gather" in name:
                self.received += out.nbytes - args[0].nbytes
            elif "scatter" in name:
                self.received += (world - 1) * out.nbytes
            else:
                self.received += 2 * out.nbytes * (world - 1) // world
            self.calls[name] = self.calls.get(name, 0) + 1
            return self._real[name](out, *args, group=group, async_op=async_op)

        return call


def train(model, images, labels, count, optimizer=None):
    """Do steps of SGD; dropout draws the same numbers in every process."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    torch.manual_seed(3)
    for _ in range(count):
        out = model(images)
        optimizer.zero_grad()
        F.cross_entropy(out, labels).backward()
        optimizer.step()
    return out.detach(), optimizer


def alike(found, wanted):
    """Return the smallest share of digits in which tensors agree."""
    return min(
        digits(f.double(), wanted[n].double()) for n, f in found.items() if wanted[n].is_floating_point()
    )


def watched(mesh, make, steps):
    """Train on several devices, each layer of each step beside that of one; count the bytes received."""
    model, (images, labels) = started(make).double().train(), batch(make, BATCH.get(make, 8))
    whole, images = copy.deepcopy(model), images.double()
    shard(model, mesh, images, timeout=PATIENCE)
    optimizer = torch.optim.SGD(model.parameters(), LR, MOMENTUM)
    layers, worst, received, calls = Layerwise(model, whole, optimizer, images), {}, 0, {}
    for step in range(steps):
        counted = Counted()
        for kind, found in layers.step(images, labels, step, counted).items():
            worst[kind] = max(worst.get(kind, found), found)
        received += counted.received
        calls = {name: calls.get(name, 0) + n for name, n in counted.calls.items()}
    planned = steps * model.shared_plan.received(mesh.get_local_rank("groups"))
    return {"worst": worst, "layers": len(layers.passed), "received": [received, planned], "calls": calls}


def elsewhere(mesh, make):
    """Train 3 steps here and 3 there, with the state as one device has it in between, and 6 without."""
    model, (images, labels) = started(make).double().train(), batch(make, 8)
    straight, images = copy.deepcopy(model), images.double()
    one, spread = copy.deepcopy(model), copy.deepcopy(model)
    _, optimizer = train(straight, images, labels, 3)
    train(straight, images, labels, 3, optimizer)

    shard(spread, mesh, images, timeout=PATIENCE)  # 4 -> 1
    _, optimizer = train(spread, images, labels, 3)
    one.load_state_dict(gathered(spread))
    resumed = torch.optim.SGD(one.parameters(), 0.01, momentum=0.9)
    resumed.load_state_dict(gathered_optimizer(spread, optimizer))
    train(one, images, labels, 3, resumed)

    first = copy.deepcopy(model)  # 1 -> 4
    _, optimizer = train(first, images, labels, 3)
    shard(model, mesh, images, timeout=PATIENCE)
    model.load_state_dict(scattered(model, first.state_dict()))
    again = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    again.load_state_dict(scattered_optimizer(model, again, optimizer.state_dict()))
    train(model, images, labels, 3, again)
    wanted = straight.state_dict()
    return {"to_one": alike(one.state_dict(), wanted), "from_one": alike(gathered(model), wanted)}


def mixed(mesh):
    """Two devices share channels, two such pairs share images: as one device with all images."""
    model = started(alexnet, drop_rate=0.0).double()
    images, labels = batch(alexnet, 8)
    alone, images = copy.deepcopy(model), images.double()
    mine = slice(0, 4) if mesh.get_local_rank("data") == 0 else slice(4, 8)
    shard(model, mesh, images[mine], timeout=PATIENCE)
    wrapped = DistributedDataParallel(model, process_group=mesh.get_group("data"))
    train(wrapped, images[mine], labels[mine], 5)
    train(alone, images, labels, 5)
    return {"weights": alike(gathered(model), alone.state_dict())}


def small(seed=0, width=8):
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 1, groups=4), nn.Dropout(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4 * width, 4))


def refused(mesh):
    """Return what each process is told where process 3 does otherwise than the rest."""
    odd = distributed.get_rank() == 3
    images = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))

    def shared(seed=0, width=8, images=images):
        model = shard(small(seed, width), mesh, images, timeout=PATIENCE)
        torch.manual_seed(0)
        return model

    def later():
        model = shared()
        model(images)
        model(images[: 1 if odd else 2])

    def chance():
        model = shared()
        torch.manual_seed(int(odd))
        model(images)

    cases = {
        "plan": lambda: shared(width=16 if odd else 8),
        "size": lambda: shared(images=images[: 1 if odd else 2]),
        "groups": lambda: shard(small() if odd else nn.Conv2d(3, 9, 1, groups=3), mesh, images),
        "weights": lambda: shared(seed=int(odd)),
        "images": lambda: shared()(images + int(odd)),
        "mode": lambda: shared().train(odd)(images),
        "later": later,
        "chance": chance,
    }
    told = {}
    for name, case in cases.items():
        try:
            case()
            told[name] = "nothing"
        except ParallelError as error:
            told[name] = str(error)
    return told


def trainings(directory):
    """Train two epochs in a directory, go on in another that one process has begun, and so with pairs."""
    trained(2, output=Path(directory, "four"), devices="groups=4")
    state, last = trained(3, output=Path(directory, "one"), resume=True, devices="groups=4")
    pairs, _ = trained(2, batch_size=8, devices="groups=2,data=2")
    url = f"shared://{directory.strip('/')}/below"
    trained(1, output=url, devices="groups=4")
    below, _ = trained(3, output=url, resume=True, devices="groups=4")
    told = {}
    for devices in ("groups=3", "groups=2,data=4"):
        try:
            trained(1, devices=devices)
        except ConfigError as error:
            told[devices] = str(error)
    states = {"state": state, "pairs": pairs, "below": below}
    plain = {name: {n: t.tolist() for n, t in s.items()} for name, s in states.items()}
    return {**plain, "score": last.score, "told": told}


def gone(mesh):
    """Process 1 ends in the second step."""
    model, (images, labels) = started(shufflenet), batch(shufflenet)
    shard(model, mesh, images, timeout=timedelta(seconds=5))
    train(model, images, labels, 1)
    if distributed.get_rank() == 1:
        os._exit(3)
    begun = time.monotonic()
    try:
        train(model, images, labels, 1)
    except ParallelError as error:
        return {"error": str(error), "seconds": time.monotonic() - begun}
    return {"error": "", "seconds": 0.0}


FULL = {
    "alexnet": 1,
    "resnext29_8x64d": 2,
    "resnext50_32x4d": 2,
    "shufflenet_v1_g4_100": 2,
    "condensenet_74_g4": 2,
    "igcv3_100": 2,
}
"""Networks, and how many of the meshes of 2 and of 4 processes they are tried on."""
STEPS = 20


def published(name):
    """Return what makes a published network, for few small images: what is shared does not depend on them."""

    def make():
        return regroup.networks.create_model(name, num_classes=5)

    side = {"alexnet": 67, "resnext29_8x64d": 8}.get(name, 32)
    SIZES[make], BATCH[make] = (3, side, side), 4
    return make


def _chosen():
    """Return the published networks that are named after "full", or all."""
    return [name for name in FULL if name in sys.argv] or list(FULL)


def _published(mesh, name):
    begun = time.monotonic()
    found = watched(mesh, published(name), STEPS)
    if not distributed.get_rank():
        told = {key: found[key] for key in ("worst", "layers", "received")}
        seconds = f"{time.monotonic() - begun:.0f} s"
        print(name, mesh["groups"].size(), told, seconds, file=sys.stderr, flush=True)
    return found


def process(rank, directory, full):
    store = f"file://{directory}/store"
    distributed.init_process_group("gloo", store, rank=rank, world_size=WORLD, timeout=PATIENCE)
    pairs = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "groups"))
    four = init_device_mesh("cpu", (WORLD,), mesh_dim_names=("groups",))
    if full:
        found = {}
        for name in _chosen():
            if pairs.get_local_rank("data") == 0:  # the other pair would do the same
                found[f"{name}, 2 processes"] = _published(pairs, name)
            if FULL[name] > 1:
                found[f"{name}, 4 processes"] = _published(four, name)
        return found
    found = {"towers": watched(pairs, alexnet, 20)}
    found["shufflenet"] = watched(four, shufflenet, 3)
    found["condensenet"] = watched(four, condensenet, 3)
    found["elsewhere"] = elsewhere(four, condensenet)
    found["mixed"] = mixed(pairs)
    found["refused"] = refused(four)
    found["trainings"] = trainings(sys.argv[1])
    found["gone"] = gone(four)
    return found


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        children = []
        for rank in range(WORLD):
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    Path(directory, f"{rank}.json").write_text(
                        json.dumps(process(rank, directory, "full" in sys.argv))
                    )
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            children.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        results = [
            json.loads(p.read_text()) if (p := Path(directory, f"{r}.json")).exists() else None
            for r in range(WORLD)
        ]
    print(json.dumps({"codes": codes, "results": results}))


if __name__ == "__main__":
    main()
