"""The training loop: it learns, it resumes, and what it computes is what its parts say."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from regroup.errors import CheckpointError, ConfigError, DataError, TrainingError
from regroup.strategies.learning import Learned
from regroup.training import Accuracy, evaluate, train
from regroup.training.checkpoint import list_checkpoints
from regroup.training.data import Loader, TensorSplit
from regroup.training.processes import Processes
from regroup.training.run import Run
from tests.training.cases import built, config, data, equal


class Stop(Exception):
    """Raised by a test in place of whatever ends a process."""


def trained(**changes):
    model = built()
    return model, train(model, data(), config(**changes))


def interrupted(after, **changes):
    """Train until `after` epochs are over."""

    def stop(result):
        if result.epoch == after:
            raise Stop

    with pytest.raises(Stop):
        train(built(), data(), config(**changes), on_epoch=stop)


def test_a_network_learns():
    model, history = trained(epochs=5)
    assert [result.epoch for result in history.epochs] == [1, 2, 3, 4, 5]
    assert [result.step for result in history.epochs] == [6, 12, 18, 24, 30]
    assert history.last.figures == history.best.figures == {"top1": 100.0, "top5": None}
    assert history.last.train_loss < history.epochs[0].train_loss
    assert not model.training


def test_training_twice_gives_the_same_bits_and_leaves_the_random_numbers_of_others_alone():
    before = torch.get_rng_state()
    first, _ = trained(mixup=0.3, clip_grad=1.0)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    second = built()
    torch.set_rng_state(state)
    train(second, data(), config(mixup=0.3, clip_grad=1.0))
    assert equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert before is not None


SETTINGS = [
    {},
    {"opt": "adamw", "lr": 0.01, "warmup_epochs": 1, "model_ema": True, "model_ema_decay": 0.9},
    {"mixup": 0.4, "cutmix": 1.0, "smoothing": 0.1, "grad_accum_steps": 2},
    {"channels_last": True, "clip_grad": 0.5, "clip_mode": "agc", "sched": "step", "decay_epochs": 1},
    {"amp": True, "opt": "lookahead_adamw", "lr": 0.01, "augment": False},
    {"amp": True, "amp_dtype": "float16", "clip_grad": 1.0},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_resumed_run_ends_in_the_same_bits(settings, tmp_path):
    whole, history = trained(**settings)
    interrupted(after=2, output=tmp_path, **settings)
    resumed = built()
    with torch.no_grad():
        resumed[0].weight.zero_()
    again = train(resumed, data(), config(output=tmp_path, resume=True, **settings))
    assert equal(whole, resumed)
    assert [e.test_loss for e in again.epochs] == [e.test_loss for e in history.epochs]
    assert [e.train_loss for e in again.epochs] == [e.train_loss for e in history.epochs]


def test_a_resumed_run_by_our_own_kernels_ends_in_the_same_bits_and_is_another_run(tmp_path):
    def stop(result):
        if result.epoch == 2:
            raise Stop

    whole, resumed = built(), built()
    train(whole, data(), config(), accelerate=True)
    with pytest.raises(Stop):
        train(built(), data(), config(output=tmp_path), on_epoch=stop, accelerate=True)
    with pytest.raises(CheckpointError, match="AcceleratedConv2d"):
        train(built(), data(), config(output=tmp_path, resume=True))
    train(resumed, data(), config(output=tmp_path, resume=True), accelerate=True)
    assert equal(whole, resumed) and type(resumed[0]) is torch.nn.Conv2d


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    whole, history = trained(output=tmp_path, model_ema=True)
    resumed = built()
    assert train(resumed, data(), config(output=tmp_path, resume=True, model_ema=True)) == history
    assert equal(whole, resumed)


def test_a_damaged_newest_checkpoint_costs_an_epoch_and_nothing_else(tmp_path):
    whole, _ = trained()
    interrupted(after=2, output=tmp_path)
    file = list_checkpoints(tmp_path)[0] / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    resumed = built()
    train(resumed, data(), config(output=tmp_path, resume=True))
    assert equal(whole, resumed)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("lr", {"lr": 0.1}),
        ("batch_size", {"batch_size": 8}),
        ("mixup", {"mixup": 0.2}),
        ("seed", {"seed": 1}),
    ],
)
def test_resuming_with_another_config_names_the_field(field, changes, tmp_path):
    interrupted(after=1, output=tmp_path)
    with pytest.raises(ConfigError) as caught:
        train(built(), data(), config(output=tmp_path, resume=True, **changes))
    assert caught.value.parameter == field


def test_resuming_with_other_data_or_a_teacher_is_named(tmp_path):
    interrupted(after=1, output=tmp_path)
    with pytest.raises(ConfigError, match="data train"):
        train(built(), data(count=112), config(output=tmp_path, resume=True))
    with pytest.raises(ConfigError, match="teacher"):
        train(built(), data(), config(output=tmp_path, resume=True), teacher=built())


def test_a_directory_with_a_run_is_not_written_over(tmp_path):
    interrupted(after=1, output=tmp_path)
    with pytest.raises(ConfigError, match="holds no run yet"):
        train(built(), data(), config(output=tmp_path))


def test_a_checkpoint_of_another_model_is_refused_and_the_model_unchanged(tmp_path):
    interrupted(after=1, output=tmp_path)
    wider = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    before = wider[1].weight.clone()
    with pytest.raises(CheckpointError, match="another model"):
        train(wider, data(), config(output=tmp_path, resume=True))
    assert torch.equal(before, wider[1].weight)


@pytest.mark.parametrize("value", [float("nan"), 1e38])
def test_a_loss_that_is_no_number_stops_training_and_keeps_the_good_checkpoint(value, tmp_path):
    model = built()

    def spoil(result):
        with torch.no_grad():
            model[-1].weight.fill_(value)

    with pytest.raises(TrainingError, match=r"the loss became .* in epoch 2, by step 7") as caught:
        train(model, data(), config(output=tmp_path), on_epoch=spoil)
    assert "lower lr" in str(caught.value) and str(tmp_path) in str(caught.value)
    resumed, (whole, _) = built(), trained()
    train(resumed, data(), config(output=tmp_path, resume=True))
    assert equal(whole, resumed)


def test_weights_that_are_no_numbers_do_not_replace_a_good_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match=r"the test loss became|weights are no longer finite"):
        train(built(), data(count=16), config(output=tmp_path, opt="momentum", lr=1e38, momentum=0.0))
    assert not list_checkpoints(tmp_path)


@pytest.mark.parametrize(
    ("model", "shape", "says"),
    [
        (built(), (3, 6, 6), "3 x 6 x 6"),
        (built(), (1, 8, 8), "1 x 8 x 8"),
        (built(classes=7), (1, 6, 6), "7 classes"),
        (nn.Conv2d(1, 4, 3), (1, 6, 6), "output of shape"),
    ],
    ids=["channels", "size", "classes", "not a classifier"],
)
def test_images_that_do_not_fit_the_network_are_one_clear_error(model, shape, says):
    with pytest.raises(ConfigError, match=says):
        train(model, data(shape=shape), config())


def test_a_data_set_with_one_class_or_none_cannot_be_trained_on():
    with pytest.raises(DataError, match="one class"):
        data(classes=1)
    with pytest.raises(DataError, match="no images"):
        data(count=0)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("grad_accum_steps", {"grad_accum_steps": 7}),
        ("opt", {"opt": "sgdd"}),
        ("opt", {"opt": "adahessian"}),
        ("opt", {"opt": "fusedlamb"}),
        ("device", {"device": "abacus"}),
        ("output", {"resume": True}),
        ("sched", {"sched": "wsd", "decay_epochs": 9}),
    ],
)
def test_what_cannot_work_is_said_before_training_begins(field, changes):
    with pytest.raises(ConfigError) as caught:
        train(built(), data(), config(**changes))
    assert caught.value.parameter == field


def test_an_output_that_cannot_be_a_directory_is_said_before_training_begins(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be made"):
        train(built(), data(), config(output=tmp_path / "file" / "run"))


def test_accumulated_gradients_are_those_of_one_large_batch():
    torch.manual_seed(2)
    models = [nn.Sequential(nn.Flatten(), nn.Linear(36, 4)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    losses = []
    for model, parts in zip(models, (1, 4), strict=True):
        settings = config(batch_size=32 // parts, grad_accum_steps=parts, epochs=1)
        losses.append(train(model, data(), settings).last.train_loss)
    torch.testing.assert_close(models[0][1].weight, models[1][1].weight)
    assert losses[0] == pytest.approx(losses[1])


def test_distillation_is_hintons_loss():
    torch.manual_seed(3)
    student, teacher, images = built().eval(), built().eval(), data()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.normal_()
    settings = config(distillation_alpha=0.7, distillation_temperature=3.0, smoothing=0.1)
    run = Run(student, images, settings, teacher, Processes(0, 1, torch.device("cpu")))
    batch = next(iter(Loader(images, 16)))
    scores, wanted = student(batch.images).double(), teacher(batch.images).double()
    p = functional.softmax(wanted / 3, dim=1)
    divergence = (p * (p.log() - functional.log_softmax(scores / 3, dim=1))).sum(1).mean()
    hard = functional.cross_entropy(scores, batch.labels, label_smoothing=0.1)
    assert run.loss(batch).item() == pytest.approx((0.3 * hard + 0.7 * 9 * divergence).item())


def test_a_teacher_teaches_and_is_not_changed():
    teacher, _ = trained(epochs=5)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = built()
    history = train(student, data(), config(epochs=4, distillation_alpha=1.0), teacher=teacher)
    assert history.last.score == 100.0
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


class Counting(Learned):
    """A module that learns nothing, but notes what it is told."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.told = []

    def set_progress(self, progress):
        self.told.append(progress)

    def penalty(self):
        return 10 * self.weight.square().sum()

    def forward(self, x):
        return x


def with_learning():
    return nn.Sequential(Counting(), nn.Flatten(), nn.Linear(36, 4))


def test_learned_modules_are_told_how_far_training_is_and_their_penalty_is_minimised(tmp_path):
    model = with_learning()
    train(model, data(), config(epochs=2, output=tmp_path))
    steps = [step / 12 for step in range(12)]
    assert model[0].told == [*steps[:6], 0.5, *steps[6:], 1.0]
    assert float(model[0].weight.detach().norm()) < 0.1


def test_progress_goes_on_after_a_resume(tmp_path):
    def stop(result):
        raise Stop

    with pytest.raises(Stop):
        train(with_learning(), data(), config(epochs=2, output=tmp_path), on_epoch=stop)
    model = with_learning()
    train(model, data(), config(epochs=2, output=tmp_path, resume=True))
    assert model[0].told == [*(step / 12 for step in range(6, 12)), 1.0]


def test_metrics_are_scikit_learns():
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import log_loss, top_k_accuracy_score

    torch.manual_seed(1)
    images = data(count=60, shape=(1, 9, 9), classes=9)
    model = built((1, 9, 9), 9).eval()
    found = evaluate(model, Loader(images, 7, train=False))
    loader = Loader(images, len(images.test), train=False)
    with torch.no_grad():
        scores = model(next(iter(loader)).images).double().softmax(1).numpy()
    labels, classes = images.test.labels.numpy(), list(range(9))
    top = [100 * top_k_accuracy_score(labels, scores, k=k, labels=classes) for k in (1, 5)]
    # of the confidences: what scikit-learn's curve says of each bin that has images
    right, confidence = scores.argmax(1) == labels, scores.max(1)
    shares, means = calibration_curve(right, confidence, n_bins=15, strategy="uniform")
    sizes = np.histogram(confidence, bins=np.linspace(0, 1, 16))[0]
    ece = (sizes[sizes > 0] * abs(shares - means)).sum() / len(labels)
    loss = log_loss(labels, scores, labels=classes)
    assert found == Accuracy(pytest.approx(loss), 31, *map(pytest.approx, top), pytest.approx(ece))
    assert found == evaluate(model, images, batch_size=7)
    assert found.ece > 0


def test_a_network_of_fewer_classes_than_the_images_says_so():
    with pytest.raises(ConfigError, match="model='4 classes': must be a network of 9 classes or more"):
        evaluate(built((1, 9, 9), 4), data(count=60, shape=(1, 9, 9), classes=9))


def test_the_last_odd_image_is_counted_too():
    images = data(count=32)
    assert isinstance(images.test, TensorSplit)
    assert evaluate(built(), Loader(images, 5, train=False)).images == 17
