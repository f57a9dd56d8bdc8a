import os
import signal
import threading
import time

import pytest

from cai import stopping
from cai.stopping import stop_if_asked, stoppable


def test_nobody_has_asked() -> None:
    before = signal.getsignal(signal.SIGINT)
    stop_if_asked()
    with stoppable():
        stop_if_asked()
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_for_the_next_gap(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    reached = []

    @stoppable()
    def work() -> None:
        os.kill(os.getpid(), number)
        time.sleep(0.05)
        reached.append("after the signal")
        stop_if_asked()
        reached.append("too far")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["after the signal"]
    assert "Ctrl-C again stops at once" in capfd.readouterr().err
    stop_if_asked()


def test_the_second_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "ONE_PRESS_S", 0.05)
    reached = []

    @stoppable()
    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        reached.append("two in a moment are one")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
        reached.append("too far")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["two in a moment are one"]


def test_what_was_there_before_is_there_again() -> None:
    before = [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)]
    with stoppable():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_hears_of_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with stoppable():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
