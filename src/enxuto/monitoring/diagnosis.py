"""x"""

from ..records import Diagnosis, Recording


def diagnose(recording: Recording) -> Diagnosis:
    """x"""
    return Diagnosis(source=recording.source, causes=())
