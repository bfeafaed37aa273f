"""Self-critical training: what is rewarded, what it is compared with, and what then becomes likelier."""

import pytest
import torch
from runs import losses, settings

from captioner import load
from captioner.base import SelfCriticalSettings
from captioner.data import CaptionDataset, EvaluationCollator, load_split
from captioner.metrics import score_per_image
from captioner.search import SearchOptions, search
from captioner.training import train
from captioner.training.self_critical import BASELINES, Reward, SelfCritical, document_frequencies, leave_one_out

REFERENCES = [["a dog runs on grass", "the dog is running"], ["a cat sleeps", "two cats on a sofa"], ["a red car"]]


class Split:
    """Three images and their references."""

    texts = [{"captions": own} for own in REFERENCES]  # noqa: RUF012

    def __len__(self):
        return len(self.texts)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "cross-entropy"
    train(settings(directory, "training.max_steps=60", "training.eval_steps=60", "training.learning_rate=1e-2"))
    return directory / "last"


def objective(trained, baseline="leave_one_out", samples=4, images=6, **options):
    split = load_split(settings("unused").data, "train")
    model, processor = load(trained)
    reward = Reward(document_frequencies(split))
    own = SelfCriticalSettings(samples=samples, baseline=baseline, **options)
    dataset = CaptionDataset(split)
    batch = EvaluationCollator(processor, model.config.modalities)([dataset[i] for i in range(images)])
    return SelfCritical(model, processor, reward, own, longest=16), batch


def test_the_reward_is_cider_d_with_the_end_as_a_word():
    reward = Reward(document_frequencies(Split()))
    captions = ["A dog runs on grass.", "a cat sleeps", "a red car"]
    plain = score_per_image(captions, REFERENCES)["cider_d"]
    ended = reward(captions, [True] * 3, REFERENCES)
    broken = reward(captions, [False] * 3, REFERENCES)
    assert all(end > stop for end, stop in zip(ended, broken, strict=True))
    assert ended != pytest.approx(plain)
    assert ended[2] == pytest.approx(10 * 4 / 4)  # word for word its only reference


def test_document_frequencies_count_images_of_the_training_split():
    counts, images = document_frequencies(Split())
    assert images == 3
    assert (counts["a",], counts["dog",], counts["</s>",]) == (3, 1, 3)


def test_the_baseline_of_a_sample_is_the_mean_of_the_others():
    rewards = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    expected = torch.tensor([[4.0, 3.5, 1.5], [1.5, 1.5, 0.0]])
    torch.testing.assert_close(leave_one_out(rewards, lambda: None), expected)
    greedy = BASELINES["greedy"](rewards, lambda: torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(greedy, torch.tensor([[1.0], [2.0]]))


@pytest.mark.parametrize("baseline", BASELINES)
def test_the_same_epoch_draws_the_same_captions_and_another_draws_others(trained, baseline):
    critic, batch = objective(trained, baseline)
    one, again = critic.prepare(batch), critic.prepare(batch)
    assert torch.equal(one["labels"], again["labels"])
    torch.testing.assert_close(one["advantages"], again["advantages"])
    assert one["labels"].shape[0] == one["advantages"].shape[0] == 6 * 4
    for sample in batch["samples"]:
        sample["epoch"] += 1
    later = critic.prepare(batch)
    assert one["labels"].shape != later["labels"].shape or not torch.equal(one["labels"], later["labels"])
    if baseline == "leave_one_out":
        torch.testing.assert_close(one["advantages"].view(6, 4).sum(1), torch.zeros(6), atol=1e-4, rtol=0)


def test_a_sample_alone_draws_what_it_draws_in_company(trained):
    critic, batch = objective(trained)
    together = critic.prepare(batch)
    alone = {name: value[2:3] for name, value in batch.items()}
    labels = critic.prepare(alone)["labels"]
    assert torch.equal(labels, together["labels"][8:12, : labels.shape[1]])


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_loss_is_advantage_times_negative_log_probability_as_drawn(trained, temperature):
    critic, batch = objective(trained, temperature=temperature)
    made = critic.prepare(batch)
    loss = critic.loss(critic.model, made)
    inputs = {name: value for name, value in made.items() if name not in ("labels", "advantages")}
    expected = 0.0
    for row, (labels, advantage) in enumerate(zip(made["labels"], made["advantages"], strict=True)):
        ids = labels[labels != -100]
        own = {name: value[row // 4 : row // 4 + 1] for name, value in inputs.items()}
        start = torch.tensor([critic.model.config.decoder_start_token_id])
        logits = critic.model(**own, decoder_input_ids=torch.cat([start, ids[:-1]])[None]).logits[0]
        expected -= advantage * (logits / temperature).log_softmax(-1)[torch.arange(len(ids)), ids].sum()
    torch.testing.assert_close(loss, expected, atol=1e-3, rtol=1e-4)


def test_the_best_beams_may_be_the_candidates(trained):
    critic, batch = objective(trained, candidates="beams", temperature=0.5)
    made = critic.prepare(batch)
    memory = critic.model.encode(**{name: batch[name] for name in critic.model.encoder_inputs if name in batch})
    found = search(critic.model, memory, SearchOptions(num_beams=4, num_return_sequences=4, max_new_tokens=16))
    rows = [labels[labels != -100].tolist() for labels in made["labels"]]
    assert rows == [caption.ids for own in found for caption in own]
    assert critic.candidates.temperature == 1.0


def test_a_step_makes_the_better_captions_likelier(trained):
    critic, batch = objective(trained)
    made = critic.prepare(batch)
    optimizer = torch.optim.SGD(critic.model.parameters(), lr=1e-4)
    before = critic.loss(critic.model, made)
    before.backward()
    optimizer.step()
    assert critic.loss(critic.model, made) < before


def test_the_encoders_run_once_per_image_in_sampling_and_once_in_the_loss(trained):
    critic, batch = objective(trained)
    seen = []
    critic.model.encoder.image.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    critic.loss(critic.model, critic.prepare(batch))
    assert seen == [6, 6]


def test_self_critical_training_raises_the_reward_and_resumes_bit_for_bit(tmp_path, trained):
    options = [
        f"model.init_from={trained}",
        "training.objective=self_critical",
        "training.learning_rate=5e-4",
        "training.lr_scheduler_type=constant",
        "training.eval_steps=50",
        "training.save_steps=10",
    ]
    train(settings(tmp_path / "whole", *options, "training.max_steps=20"))
    train(settings(tmp_path / "parts", *options, "training.max_steps=10"))
    train(settings(tmp_path / "parts", *options, "training.max_steps=20"), resume=True)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert mean_reward(tmp_path / "whole/last") > mean_reward(trained)


def mean_reward(directory):
    """Of 16 samples for each of the 64 training scenes."""
    critic, batch = objective(directory, samples=16, images=64)
    rewards = []
    critic.baseline = lambda own, greedy: rewards.append(own.mean()) or own
    critic.prepare(batch)
    return rewards[0]
