"""The prompts of the demo: 32 questions as people ask them."""

from typing import Final

from sampler_api.types import Trajectory

__all__ = ["PROMPTS", "conversations"]

PROMPTS: Final = (
    "What is the capital of France?",
    "Explain photosynthesis in two sentences.",
    "Write a haiku about the sea.",
    "How do I boil an egg?",
    "Name three prime numbers above 20.",
    "What is the difference between a virus and a bacterium?",
    "Suggest a name for a black cat.",
    "Translate 'good morning' into Spanish.",
    "Why is the sky blue?",
    "Give me one tip for learning to cook.",
    "What does a compiler do?",
    "Tell me a short joke.",
    "How many legs does a spider have?",
    "Write one line of Python that reverses a list.",
    "What should I pack for a hike in the rain?",
    "Who wrote Romeo and Juliet?",
    "What is 17 plus 26?",
    "Describe the taste of a lemon.",
    "How does a bicycle stay upright?",
    "Give me a title for a story about a lost robot.",
    "What is the largest planet of the solar system?",
    "How do I say no politely to an invitation?",
    "What is a metaphor? Give an example.",
    "List three uses of baking soda.",
    "Why do leaves change colour in autumn?",
    "What is the opposite of generous?",
    "How can I fall asleep faster?",
    "What happens when water freezes?",
    "Write a slogan for a small bakery.",
    "What is the purpose of a vaccine?",
    "How do birds find their way south?",
    "Recommend a board game for two people.",
)


def conversations() -> list[Trajectory]:
    """One conversation of one user message per prompt."""
    return [{"messages": [{"role": "user", "content": prompt}]} for prompt in PROMPTS]
