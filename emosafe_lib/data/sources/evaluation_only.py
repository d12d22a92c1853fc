"""Public safety benchmarks that must stay unseen: registered so that the merge can refuse them by name."""

from emosafe_lib.data.sources.base import Source


def benchmark(name: str, title: str, repository: str, licence: str, citation: str) -> Source:
    """An evaluation-only source; bring its file along as one of `own_sources`, with role external, to score it."""
    return Source(name, title, repository, "", licence, citation, files=(), role="external", register="prompt")


SOURCES = [
    benchmark(
        "openai_moderation",
        "OpenAI moderation evaluation set",
        "openai/moderation-api-release",
        "MIT",
        "Markov et al., A Holistic Approach to Undesired Content Detection in the Real World, AAAI 2023",
    ),
    benchmark(
        "xstest",
        "XSTest",
        "paul-rottger/xstest",
        "CC BY 4.0",
        "Röttger et al., XSTest, NAACL 2024",
    ),
    benchmark(
        "simplesafetytests",
        "SimpleSafetyTests",
        "bertiev/SimpleSafetyTests",
        "CC BY 4.0",
        "Vidgen et al., SimpleSafetyTests, arXiv 2311.08370",
    ),
]
