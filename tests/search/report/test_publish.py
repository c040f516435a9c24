import optuna
from optuna.artifacts import FileSystemArtifactStore, download_artifact, get_all_artifact_meta
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.record.journal import Journal
from search.report.publish import store_artifacts


def test_optuna_finds_what_was_published_and_publishing_again_replaces_it(tmp_path):
    figures = [tmp_path / "cnn_confusion.png", tmp_path / "resnet50_confusion.png"]
    for content in (b"before", b"now"):
        for path in figures:
            path.write_bytes(content + path.name.encode())
        journal = Journal(tmp_path / "study.journal", "mine", note=print)
        store_artifacts(figures, tmp_path / "artifacts", journal)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    metas = get_all_artifact_meta(optuna.load_study(study_name="mine", storage=storage))
    assert sorted((meta.filename, meta.mimetype) for meta in metas) == [
        ("cnn_confusion.png", "image/png"),
        ("resnet50_confusion.png", "image/png"),
    ]
    store = FileSystemArtifactStore(tmp_path / "artifacts")
    for meta in metas:
        target = tmp_path / "back"
        download_artifact(artifact_store=store, file_path=str(target), artifact_id=meta.artifact_id)
        assert target.read_bytes() == b"now" + meta.filename.encode()
        target.unlink()
