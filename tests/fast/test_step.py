"""What fast/ spares a fit as a whole."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("options", [{"model": "mlp", "optimizer": "sgd"}, {"model": "cnn"}], ids=str)
def test_one_process_trains_without_importing_torchs_compiler(options):
    code = (
        "import sys; from distmnist.config import TrainConfig; from distmnist.data.known import load_sample\n"
        "from distmnist.training.trainer import fit\n"
        f"result = fit(TrainConfig(**{options}, max_steps=2), load_sample())\n"
        "print(result.history[-1].step, sorted({'torch._dynamo', 'sympy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "[]"]
