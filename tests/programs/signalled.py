"""toolkit.train, which is sent a signal once, in a phase of its run.

$SIGNAL is its name, $PHASE one of start, training, search, evaluation, test and checkpoint, without
which nothing is sent. With $TO = launcher the process above gets it, and all ranks wait
until they have been asked to stop; else rank $SIGNALLED (0 by default) has it raised.
"""

import os
import signal
import sys
import time
from functools import partial

from toolkit import signals, train
from toolkit.training import build, checkpoint

RANK = os.environ.get("RANK", "0")
PATIENCE = 60
UPDATES = {"training": 65, "search": 7}
"""The update in which a signal comes."""


class Sender:
    """Sends a signal once, when the run is in a phase.

    Args:
        phase: one of the above.
        send: sends it.
    """

    def __init__(self, phase, send):
        self.phase, self.send = phase, send
        self.sent = self.watches = False

    def __call__(self, phase):
        """The run is in this phase now."""
        if phase == self.phase and not self.sent:
            self.sent = True
            self.send()

    def after_update(self, run):
        """For ``Run.after_update``."""
        for phase, update in UPDATES.items():
            if run.update == update:
                assert run.lr.searching == (phase == "search")
                self(phase)
        if not self.watches:
            self.watches = True
            for phase, split in (("evaluation", "validation"), ("test", "test")):
                loader = run.evaluation_loaders[split]
                run.evaluation_loaders[split] = Sending(loader, partial(self, phase))


class Sending:
    """A loader that calls a function with its second batch."""

    def __init__(self, loader, call):
        self.loader, self.call = loader, call

    def __iter__(self):
        for number, batch in enumerate(self.loader):
            if number == 1:
                self.call()
            yield batch


def send():
    """As the environment says."""
    number = signal.Signals[os.environ["SIGNAL"]]
    if os.environ.get("TO") != "launcher":
        if os.environ.get("SIGNALLED", "0") == RANK:
            signal.raise_signal(number)
        return
    if RANK == "0":
        os.kill(os.getppid(), number)
    deadline = time.monotonic() + PATIENCE
    while not signals.asked():
        if time.monotonic() > deadline:
            sys.exit("the signal did not arrive")
        time.sleep(0.01)


def main():
    """Run the command line."""
    # Whoever started the tests in the background has their processes ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sender = Sender(os.environ.get("PHASE"), send)

    def before(function, phase):
        def with_signal(*arguments):
            sender(phase)
            return function(*arguments)

        return with_signal

    build.build = before(build.build, "start")
    checkpoint._write_tensors = before(checkpoint._write_tensors, "checkpoint")
    return train.main(after_update=[sender.after_update])


if __name__ == "__main__":
    sys.exit(main())
