import psutil
import pytest

from search.listeners.wandb.runs import connect, disconnect, log_in


def list_services():
    return [child for child in psutil.Process().children() if child.name().startswith("wandb-core")]


@pytest.mark.usefixtures("wandb_home")
def test_a_service_that_does_not_end_is_killed_and_another_can_be_started(monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    for _ in range(2):
        connect()
        assert log_in()
        wandb.setup().ensure_service()
        [service] = list_services()
        service.suspend()
        disconnect(patience_s=0.3)
        assert list_services() == []
    connect()
    wandb.setup().ensure_service()
    disconnect()
    assert list_services() == []
