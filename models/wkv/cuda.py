from models.wkv.build import BuildError
def load():
    raise BuildError("not written yet")
