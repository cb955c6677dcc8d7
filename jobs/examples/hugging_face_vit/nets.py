"""A vision transformer of Hugging Face, whose forward returns an object with `.logits`."""

from transformers import ViTConfig, ViTForImageClassification


def vit(in_channels: int, num_classes: int, width: int = 32, depth: int = 2) -> ViTForImageClassification:
    """Return an untrained ViT for images of 8 x 8, in patches of 2 x 2."""
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=in_channels,
        num_labels=num_classes,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=depth,
        num_attention_heads=4,
    )
    return ViTForImageClassification(config)
