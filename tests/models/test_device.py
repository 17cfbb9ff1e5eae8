"""Where a network computes and in which arithmetic, for GPUs that are not here."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from wsss.core.checks import ConfigError
from wsss.models import device
from wsss.models.device import Device, MemoryFull, attempt, choose_device
from wsss.stages import doctor as machine

Gpus = list[tuple[int, int]]
NATIVE = {
    (5, 2): None,
    (6, 0): torch.float16,  # P100
    (6, 1): None,  # GTX 1080
    (7, 0): torch.float16,  # V100
    (7, 5): torch.float16,  # T4
    (8, 0): torch.bfloat16,  # A100
    (8, 9): torch.bfloat16,  # L4
    (9, 0): torch.bfloat16,  # H100
    (10, 0): torch.bfloat16,  # B200
}
NAMES = {None: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    """Make PyTorch see GPUs of the compute capabilities that a test puts into this list; the first one is current."""
    found: Gpus = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(found))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(found))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(device, "_compute_on", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: found[index or 0])
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(name=f"GPU {index}"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (2**33, 2**34))
    return found


@pytest.mark.parametrize("capability", NATIVE)
def test_the_precision_is_what_the_gpu_computes_in_and_doctor_says_the_same(
    gpus: Gpus, capability: tuple[int, int]
) -> None:
    gpus.append(capability)
    assert choose_device("auto").half is NATIVE[capability]
    predicts = NATIVE[capability] and torch.float16
    assert choose_device("auto", predicts=True).half is predicts
    (finding,) = machine._gpus()
    assert finding.text.endswith(f"precision {NAMES[NATIVE[capability]]}, {NAMES[predicts]} for predictions")


def test_it_is_that_of_the_gpu_that_is_used_not_of_the_current_one(gpus: Gpus) -> None:
    gpus += [(9, 0), (7, 5)]
    assert choose_device("cuda:1") == Device(torch.device("cuda:1"), torch.float16)
    assert choose_device("cuda").place == choose_device("auto").place == torch.device("cuda:0")
    assert choose_device("cuda:0").half is torch.bfloat16
    assert ["precision bf16" in finding.text for finding in machine._gpus()] == [True, False]


def test_bf16_is_refused_where_it_would_be_emulated(gpus: Gpus) -> None:
    gpus.append((7, 5))
    with pytest.raises(ConfigError, match="only emulates: pass --precision fp16"):
        choose_device("cuda", "bf16")
    assert choose_device("cuda", "fp16").half is torch.float16
    assert choose_device("cuda", "fp32").half is None


def test_a_gpu_that_is_not_there_is_named(gpus: Gpus) -> None:
    with pytest.raises(ConfigError, match="PyTorch sees no GPU"):
        choose_device("cuda")
    gpus.append((8, 0))
    with pytest.raises(ConfigError, match="device is 'cuda:3', but this machine has 1 GPUs"):
        choose_device("cuda:3")


def test_so_is_one_that_does_not_compute(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: torch.device) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors")

    gpus.append((6, 0))
    monkeypatch.setattr(device, "_compute_on", refuse)
    with pytest.raises(ConfigError, match=r"does not compute \(CUDA error: no kernel .* device\): pass --device cpu"):
        choose_device("auto")
    assert [finding.level for finding in machine._gpus()] == ["bad"]


def test_cudnn_works_while_it_searches() -> None:
    with Device(torch.device("cuda:0")).searching():
        assert torch.backends.cudnn.enabled
        assert torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "FIND was unable to find an engine to execute this computation",
    ],
)
def test_memory_that_is_full_is_known_whoever_says_so(text: str) -> None:
    def refuse() -> None:
        raise RuntimeError(text)

    with pytest.raises(MemoryFull, match=text):
        attempt(refuse)


def test_the_cpu_computes_in_fp32_unless_told_otherwise() -> None:
    assert choose_device("cpu").half is None
    assert choose_device("cpu", "bf16").half is torch.bfloat16
    with pytest.raises(ConfigError, match="fp16, which needs a GPU"):
        choose_device("cpu", "fp16")


@pytest.mark.parametrize("name", ["gpu", "mps", "meta", "cuda:-1", "cpu:7", ""])
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device is '{name}', expected auto, cpu, cuda or cuda:N"):
        choose_device(name)


def test_an_arithmetic_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="precision is 'fp8', expected one of auto, fp32, bf16, fp16"):
        choose_device("cpu", "fp8")


@pytest.mark.parametrize(("flags", "told"), [("fpu avx2", False), ("fpu avx512_bf16", True), ("fpu amx_bf16", True)])
def test_a_cpu_that_computes_in_bf16_is_known(
    flags: str, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "CPU_FLAGS", tmp_path / "cpuinfo")
    cpu = choose_device("cpu")
    assert not device.computes_half(cpu)  # no such file on other systems
    (tmp_path / "cpuinfo").write_text(f"processor: 0\nflags: {flags}\n")
    assert cpu.half is None
    assert device.computes_half(cpu) is told
    assert not device.computes_half(Device(torch.device("cuda")))
