import pytest

from search.record.trial import Trial
from search.report.figures import draw_confusion, draw_curves, render_svg


def test_a_confusion_matrix_sums_over_the_seeds():
    axes = draw_confusion([((90, 10), (7, 93)), ((90, 10), (8, 92))], "cnn", ("FAKE", "REAL")).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["180\n90.00%", "20\n10.00%", "15\n7.50%", "185\n92.50%"]
    assert axes.get_title() == "cnn on test, sum over 2 seeds"


def test_curves_show_train_and_validation_and_the_epoch_that_won():
    train, validation = (0.75, 0.8, 0.85), (0.7, 0.9, 0.8)
    epochs = [
        {"train_loss": 0.6, "train_accuracy": learned, "loss": 0.5, "accuracy": value}
        for learned, value in zip(train, validation, strict=True)
    ]
    loss, accuracy = draw_curves(Trial(number=3, architecture="cnn", params={}, epochs=epochs)).axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in accuracy.get_lines()}
    assert drawn["train"] == pytest.approx(train)
    assert drawn["validation"] == pytest.approx(validation)
    assert [line.get_label() for line in loss.get_lines()] == ["train", "validation", "best on validation"]
    assert set(accuracy.get_lines()[-1].get_xdata()) == {2}


def test_a_class_named_like_a_style_stays_in_its_figure():
    figure = draw_confusion([((90, 10), (7, 93))], "cnn", ("font: 1px x", "REAL"))
    svg = render_svg(figure, name="a", description="b")
    assert svg.count("<text") == svg.count("</text>") > 0
    assert svg.count("font: 1px x") >= 2
    assert "font-size: " in svg
