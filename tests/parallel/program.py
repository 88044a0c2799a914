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
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import regroup.networks
from regroup.errors import ConfigError, ParallelError
from regroup.parallel import gathered, gathered_optimizer, scattered, scattered_optimizer, shard
from tests.parallel.magnitude import digits
from tests.parallel.networks import SIZES, alexnet, batch, condensenet, shufflenet, started
from tests.parallel.training import trained
from tests.stores import SharedFileSystem as SharedFileSystem  # shared://

WORLD = 4
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


def alone(make, steps):
    """Train on one device; return the weights by name, and the last outputs under ""."""
    model, (images, labels) = started(make).double().train(), batch(make, 8)
    out, _ = train(model, images.double(), labels, steps)
    return {**model.state_dict(), "": out}


def compared(mesh, make, steps, wanted=None):
    """Train on several devices and on one, or as `wanted` was: outputs, weights, and bytes received."""
    model, (images, labels) = started(make).double().train(), batch(make, 8)
    images = images.double()
    shard(model, mesh, images, timeout=PATIENCE)
    with Counted() as counted:
        out, _ = train(model, images, labels, steps)
    model.zero_grad()
    wanted = wanted or alone(make, steps)
    rank = mesh.get_local_rank("groups")
    return {
        "outputs": digits(out, wanted[""]),
        "weights": alike(gathered(model), wanted),
        "received": [counted.received, steps * model.shared_plan.received(rank)],
        "calls": counted.calls,
    }


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


def refused(mesh):
    """Process 3 has another network."""
    model = started(alexnet) if distributed.get_rank() < 3 else started(alexnet, norm="none")
    try:
        shard(model, mesh, batch(alexnet)[0][: 4 if distributed.get_rank() else 2], timeout=PATIENCE)
    except ParallelError as error:
        return str(error)
    return "nothing"


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


def published(name):
    """Return what makes a published network, for small images."""

    def make():
        return regroup.networks.create_model(name, num_classes=5)

    side = {"alexnet": 67, "resnext29_8x64d": 8}.get(name, 32)  # what is shared does not depend on it
    SIZES[make] = (3, side, side)
    return make


def _steps(name):
    """Return how many steps rounding leaves half of the digits: batch norms over few numbers enlarge it.

    ShuffleNet trained in one process, from weights that differ in the last bit, keeps an eighth after five.
    """
    return 20 if name == "alexnet" else 2


def _chosen():
    """Return the published networks that are named after "full", or all."""
    return [name for name in FULL if name in sys.argv] or list(FULL)


def _published(mesh, name, directory):
    begun = time.monotonic()
    found = compared(mesh, published(name), _steps(name), load_file(Path(directory, name)))
    if not distributed.get_rank():
        told = {key: found[key] for key in ("outputs", "weights", "received")}
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
                found[f"{name}, 2 processes"] = _published(pairs, name, directory)
            if FULL[name] > 1:
                found[f"{name}, 4 processes"] = _published(four, name, directory)
        return found
    found = {"towers": compared(pairs, alexnet, 20)}
    found["shufflenet"] = compared(four, shufflenet, 3)
    found["condensenet"] = compared(four, condensenet, 3)
    found["elsewhere"] = elsewhere(four, condensenet)
    found["mixed"] = mixed(pairs)
    found["refused"] = refused(four)
    found["trainings"] = trainings(sys.argv[1])
    found["gone"] = gone(four)
    return found


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        for name in _chosen() if "full" in sys.argv else ():  # once: all processes read it
            save_file(alone(published(name), _steps(name)), Path(directory, name))
            print(name, "alone", file=sys.stderr, flush=True)
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
