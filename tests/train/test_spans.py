"""Seconds of phases: read once a step, and on a GPU without waiting for the device in between."""

from __future__ import annotations

import time

import pytest
import torch

from sweeps.spans import Spans


def test_spans_add_up_and_what_is_nested_is_taken_off() -> None:
    spans, ran = Spans(torch.device("cpu")), []
    outer = spans.mark()
    inner = spans.mark()
    time.sleep(0.02)
    spans.add("generation", inner)
    spans.add("training", inner, less=True)
    time.sleep(0.01)
    spans.add("training", outer)
    spans.later(lambda: ran.append(1))
    assert not ran
    out = spans.settle()
    assert ran == [1] and out["generation"] >= 0.02 and 0.009 <= out["training"] < out["generation"] + 0.02
    assert spans.settle() == {} and ran == [1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_span_is_the_devices_time_and_nothing_waits() -> None:
    a = torch.randn(8192, 8192, device="cuda")
    torch.mm(a, a)
    torch.cuda.synchronize()
    spans = Spans(torch.device("cuda"))
    began, start = time.perf_counter(), spans.mark()
    for _ in range(40):
        torch.mm(a, a)
    spans.add("training", start)
    queued = time.perf_counter() - began
    out = spans.settle()
    whole = time.perf_counter() - began
    assert out["training"] == pytest.approx(whole, rel=0.05) and queued < 0.2 * whole
