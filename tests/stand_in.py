"""A lab that needs no training: tiny models as they start, and texts that are given, among them hostile ones."""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sae_lib.browser import Passage
from sae_lib.corpus import END_OF_TEXT, Document, LabelledText, pocket_labels
from sae_lib.lab import Lab
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer, TransformerConfig

HOSTILE = (
    "<script>window.canary = 'script'</script>",
    '"><img src=x onerror="window.canary = \'image\'">',
    "</textarea></title></style></script><svg onload=\"window.canary = 'svg'\">",
    "javascript:window.canary='address'",
    "a\0null byte and a \x1b[31m terminal's colour",
    "right-to-left \u202eoverride\u202c and \u2066isolate\u2069, \u200bnothing wide",
    "مرحبا بالعالم and שלום עולם and 안녕하세요",
    "{{constructor.constructor('canary')()}} ${canary} &lt;b&gt; &#60;",
)
HALF_A_PAIR = "half a surrogate pair \ud800 stays text"
"""No tokenizer reads this, but a name or an explanation may hold it."""


class StandIn(Lab):
    """Stands in for a `Lab`: models and dictionaries are drawn, not trained, and the truth is the text that is given.

    Args:
        documents: the text, repeated until there are 1,500 tokens.
    """

    def __init__(self, documents: Sequence[str] = HOSTILE) -> None:
        self.scale = SimpleNamespace(name="tiny", d_sae={"A/0": 8, "A/1": 40, "A/2": 48, "B/1": 40}, n_ctx=16, truth_tokens=94 * 16)
        self.seed, self.device = 0, torch.device("cpu")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer.train_from_iterator(
            list(documents) * 9,
            trainers.BpeTrainer(vocab_size=600, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet, show_progress=False),
        )
        self.tokenizer = tokenizer
        # Two ids more than the tokenizer gives out, as a model may have them.
        geometry = TransformerConfig(d_model=16, n_heads=2, d_head=8, d_mlp=32, n_ctx=16, d_vocab=tokenizer.get_vocab_size() + 2)
        self._models = {name: OneLayerTransformer(geometry, seed=seed).eval().requires_grad_(False) for seed, name in enumerate("AB")}
        for model in self._models.values():
            # As it starts, a model says almost nothing.
            model.embed.W_E.mul_(40)
        self._dictionaries = {
            name: SparseAutoencoder(SAEConfig(32, width, 1e-3), seed=seed).requires_grad_(False)
            for seed, (name, width) in enumerate(self.scale.d_sae.items())
        }
        self._dictionaries["A/1"].b_enc[3] = -1e9
        ids = [token for document in documents for token in (0, *tokenizer.encode(document).ids)]
        tokens = np.resize(np.array(ids), (94, 16))
        labels = tuple(pocket_labels())
        self.truth = LabelledText(tokens, np.zeros(tokens.shape, np.uint16), np.zeros((1, len(labels)), bool), labels)
        counts = np.full(tokenizer.get_vocab_size(), 100)
        self.shards = SimpleNamespace(train=SimpleNamespace(unigram_counts=lambda n: counts[:n]))
        self.passages = [Passage(HALF_A_PAIR, Document(document, "tests", ())) for document in documents]

    def model(self, name: str) -> OneLayerTransformer:
        """Model A or B."""
        return self._models[name]

    def dictionary(self, name: str, resampling: str = "paper", arm: bool = False) -> SparseAutoencoder:
        """A dictionary; feature 3 of A/1 never fires."""
        return self._dictionaries[name]

    def config(self, name: str) -> dict:
        """Nothing decides more than the name."""
        return {"name": name}
