"""Devices that are threads of this process: the same code as between processes, without starting any."""

import copy
import threading

import torch

from regroup.parallel.planning import plan
from regroup.parallel.sharding import share
from regroup.parallel.wire import Wire


class Meeting:
    """Where threads put what the others need."""

    def __init__(self, devices):
        self.barrier = threading.Barrier(devices, timeout=60)
        self.given = [None] * devices


class ThreadWire(Wire):
    def __init__(self, rank, meeting):
        super().__init__(rank, len(meeting.given))
        self.meeting = meeting
        self.counted = 0  # numbers that came from other threads

    def _meet(self, given):
        self.meeting.given[self.rank] = given
        self.meeting.barrier.wait()
        found = list(self.meeting.given)
        self.meeting.barrier.wait()
        return found

    def _all_to_all(self, out, rows, receive, send, layer):
        found = self._meet((rows, send))
        parts = [r.split(s)[self.rank] for r, s in found]
        assert [len(p) for p in parts] == receive
        self.counted += sum(p.nbytes for i, p in enumerate(parts) if i != self.rank)
        out.copy_(torch.cat(parts))

    def _all_gather(self, out, rows, layer):
        found = self._meet(rows)
        self.counted += sum(r.nbytes for i, r in enumerate(found) if i != self.rank)
        out.copy_(torch.cat(found))

    def _reduce_scatter(self, out, rows, layer):
        parts = [r.chunk(self.devices)[self.rank] for r in self._meet(rows)]
        self.counted += sum(p.nbytes for i, p in enumerate(parts) if i != self.rank)
        out.copy_(sum(parts[1:], parts[0]))

    def _all_reduce(self, tensor, layer):
        found = [t.clone() for t in self._meet(tensor.clone())]
        self.counted += 2 * tensor.nbytes * (self.devices - 1) // self.devices
        tensor.copy_(sum(found[1:], found[0]))


def together(model, devices, inputs, task):
    """Return what `task(model, wire)` returns on each device."""
    decided = plan(model, devices, *inputs)
    meeting, results = Meeting(devices), [None] * devices

    def run(rank):
        torch.set_num_threads(1)
        try:
            own, wire = copy.deepcopy(model), ThreadWire(rank, meeting)
            share(own, wire, decided)
            results[rank] = task(own, wire)
        except BaseException as error:
            results[rank] = error
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(devices)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [r for r in results if isinstance(r, BaseException)]
    if errors:
        raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
    return decided, results
