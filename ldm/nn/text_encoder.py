"""CLIP's text transformer as Stable Diffusion v1 uses it: the hidden states after the final LayerNorm are the context.

"Learning Transferable Visual Models From Natural Language Supervision" (arXiv 2103.00020), section 2.4. The network is
transformers' `CLIPTextModel`; pad tokens are attended to, as in the original.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel


@dataclass(frozen=True)
class TextEncoderConfig:
    """Shape of the text transformer; the defaults are CLIP ViT-L/14's."""

    vocab_size: int = 49408
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


class TextEncoder(nn.Module):
    """`text_encoder(input_ids (b 77) int64) -> context (b 77 hidden_size)`."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        end_of_text = config.vocab_size - 1
        self.transformer = CLIPTextModel(
            CLIPTextConfig(
                **vars(config), bos_token_id=end_of_text - 1, eos_token_id=end_of_text, pad_token_id=end_of_text
            )
        )
        # A constant, not a weight. It is made here so that it has values also where the weights are on the meta device.
        for module in self.transformer.modules():
            if hasattr(module, "position_ids"):
                module.position_ids = torch.arange(config.max_position_embeddings, device="cpu")[None]

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.transformer(input_ids=input_ids).last_hidden_state
