"""What every test shares: Hypothesis without a time limit per example, for busy machines."""

from hypothesis import settings

settings.register_profile("outlive", deadline=None, print_blob=True)
settings.load_profile("outlive")
