"""Self-critical sequence training: the CIDEr-D of sampled captions as the objective of a second stage.

Rennie et al. 2017 (arXiv 1612.00563); baseline after Luo 2020 (arXiv 2003.09971); the end token counts as a word on
both sides of the reward (arXiv 2305.12254), else captions learn to break off. Knows nothing about loops.
"""

import random
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..base import SelfCriticalSettings
from ..cpu import wide_products
from ..data import Batch, Sample, Split
from ..metrics import CiderD, DocumentFrequencies, tokenize
from ..model import Captioner, CaptionerProcessor, Memory
from ..search import SearchOptions, search

END = "</s>"  # a word that no tokenised caption holds
MOST_GENERATED = 5000


def document_frequencies(samples: Split) -> DocumentFrequencies:
    """How often words come in the references of a training split; of generated scenes, in the first of them."""
    if len(samples.texts) >= min(len(samples), MOST_GENERATED):
        references = (row["captions"] for row in samples.texts)
    else:
        references = (samples[i]["captions"] for i in range(min(len(samples), MOST_GENERATED)))
    return CiderD([[_words(caption, True) for caption in own] for own in references]).document_frequencies


class Reward:
    """CIDEr-D against the references of each image, with the document frequencies of the training split."""

    def __init__(self, frequencies: DocumentFrequencies):
        self.frequencies = frequencies

    def __call__(
        self, captions: Sequence[str], ended: Sequence[bool], references: Sequence[Sequence[str]]
    ) -> list[float]:
        """Captions of B images, K each and adjacent, whether each came to its end, B lists of references → rewards.

        A reward is from 0 to 10.
        """
        scorer = CiderD([[_words(caption, True) for caption in own] for own in references], self.frequencies)
        each = len(captions) // len(references)
        images = [image for image in range(len(references)) for _ in range(each)]
        return scorer.score([_words(*caption) for caption in zip(captions, ended, strict=True)], images)


@lru_cache(maxsize=100_000)
def _words(caption: str, ended: bool) -> list[str]:
    return [*tokenize(caption).split(), END] if ended else tokenize(caption).split()


def leave_one_out(rewards: Tensor, greedy: Callable[[], Tensor]) -> Tensor:
    """Rewards (B, K) → for each caption the mean of the other K − 1 of its image, (B, K)."""
    return (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)


def greedy_caption(rewards: Tensor, greedy: Callable[[], Tensor]) -> Tensor:
    """Rewards (B, K) → the reward of the image's greedy caption, (B, 1)."""
    return greedy()[:, None]


def drawn(options: SelfCriticalSettings, longest: int) -> SearchOptions:
    """K captions of an image that know nothing of each other."""
    count, temperature = options.samples, options.temperature
    return SearchOptions(
        do_sample=True, num_return_sequences=count, temperature=temperature, top_k=0, max_new_tokens=longest
    )


def best_beams(options: SelfCriticalSettings, longest: int) -> SearchOptions:
    """The K best captions of a beam search, which are those that beams will choose among (arXiv 1912.08226)."""
    return SearchOptions(num_beams=options.samples, num_return_sequences=options.samples, max_new_tokens=longest)


CANDIDATES = {"samples": drawn, "beams": best_beams}
BASELINES = {"leave_one_out": leave_one_out, "greedy": greedy_caption}


class SelfCritical:
    """The objective: log-probabilities of candidate captions, weighted by how much better than the baseline they are.

    The K captions of an image share its memory, in sampling and in the loss. Both run without dropout and with frozen
    batch norms, so that what is scored is what was drawn from. What is drawn follows from (seed, epoch, index) alone.

    Args:
        model: the captioner that is trained, unwrapped.
        reward: of the training split.
        longest: tokens of a sample at most.
    """

    def __init__(
        self,
        model: Captioner,
        processor: CaptionerProcessor,
        reward: Reward,
        options: SelfCriticalSettings,
        longest: int,
        seed: int = 0,
    ):
        self.model, self.processor, self.reward, self.seed = model, processor, reward, seed
        self.baseline = BASELINES[options.baseline]
        self.longest = min(longest, model.config.decoder.max_positions - 1)
        self.candidates = CANDIDATES[options.candidates](options, self.longest)

    def prepare(self, batch: Batch) -> Batch:
        """Encoder inputs of B images and their `samples` → the same inputs, `labels` (N, T), `advantages` (N,)."""
        self.model.eval()
        samples = batch["samples"]
        inputs = {name: value for name, value in batch.items() if name in self.model.encoder_inputs}
        with torch.no_grad(), wide_products(self.model.device):
            memory = self.model.encode(**inputs)
        ids, rewards = self._try(memory, samples, self.candidates)
        greedy = SearchOptions(max_new_tokens=self.longest)
        baseline = self.baseline(rewards, lambda: self._try(memory, samples, greedy)[1][:, 0])
        labels = [F.pad(torch.tensor(row), (0, max(map(len, ids)) - len(row)), value=-100) for row in ids]
        labels = torch.stack(labels).to(self.model.device)
        return {**inputs, "labels": labels, "advantages": (rewards - baseline).flatten().to(self.model.device)}

    def _try(self, memory: Memory, samples: list[Sample], options: SearchOptions) -> tuple[list[list[int]], Tensor]:
        """Search → the ids of N captions, those of an image adjacent, and their rewards (B, K)."""
        seeds = [random.Random(f"{self.seed} {s['epoch']} {s['index']}").getrandbits(63) for s in samples]
        found = search(self.model, memory, options, seeds=seeds)
        ids = [caption.ids for own in found for caption in own]
        ended = [row[-1] == self.processor.eos_token_id for row in ids]
        references = [sample["captions"] for sample in samples]
        rewards = self.reward([self.processor.decode(row) for row in ids], ended, references)
        return ids, torch.tensor(rewards).view(len(samples), -1)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """What `prepare` made → the sum over tokens of advantage times negative log-probability as drawn."""
        inputs = {name: value for name, value in batch.items() if name in self.model.encoder_inputs}
        start = self.model.config.decoder_start_token_id
        tokens = F.pad(batch["labels"], (1, -1), value=start)
        filler = self.processor.pad_token_id
        logits = model(**inputs, decoder_input_ids=tokens.masked_fill(tokens == -100, filler)).logits.float()
        drawn_from = logits / self.candidates.temperature
        values = F.cross_entropy(drawn_from.flatten(0, 1), batch["labels"].flatten(), reduction="none")
        return (values.view_as(batch["labels"]) * batch["advantages"][:, None]).sum()
