from hypothesis import settings

# A shared machine stalls now and then; how long one example took says nothing here.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
