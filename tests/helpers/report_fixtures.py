"""A run that the command really trained on the sample: made once a session."""

from pathlib import Path

import pytest

from distmnist import train
from distmnist.data import known


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both nets, two epochs, on the sample."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DISTMNIST_DATA", raising=False)
        patch.setattr(known, "fetch", lambda *_: None)
        assert train.main(["--epochs=2", "--batch-size=40", "--amp=off", "--threads=1", "--output=finished"]) == 0
    return folder / "finished"
