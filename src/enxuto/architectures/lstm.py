"""A recurrent language model: embedding, stacked LSTM, linear head.

Hochreiter and Schmidhuber, "Long Short-Term Memory" (1997); as a language model in Zaremba et al.,
"Recurrent Neural Network Regularization" (2014), https://arxiv.org/abs/1409.2329
"""

from __future__ import annotations

from torch import Tensor, nn


class LSTMLanguageModel(nn.Module):
    """Predict each next token from a state carried along the sequence.

    Args:
        vocab: number of distinct tokens.
        width: channels of a token and of the state.
        layers: number of stacked LSTM layers.
    """

    def __init__(self, vocab: int = 2000, width: int = 256, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.lstm = nn.LSTM(width, width, num_layers=layers, batch_first=True)
        self.head = nn.Linear(width, vocab)

    def forward(self, tokens: Tensor) -> Tensor:
        """Predict the token after each position.

        Args:
            tokens: int64 [batch, time].

        Returns:
            Logits, float [batch, time, vocab].
        """
        states, _ = self.lstm(self.embedding(tokens))
        logits: Tensor = self.head(states)
        return logits


def lstm(vocab: int = 2000, width: int = 256, layers: int = 2) -> LSTMLanguageModel:
    """LSTM language model, 2,078,672 parameters at the defaults.

    Args:
        vocab: number of distinct tokens.
        width: channels of a token and of the state.
        layers: number of stacked LSTM layers.

    Returns:
        A net from int64 [batch, time] to logits [batch, time, vocab].

    Source:
        Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997; Zaremba et al., 2014,
        arXiv:1409.2329.
    """
    return LSTMLanguageModel(vocab, width, layers)
