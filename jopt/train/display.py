import contextlib
class Display:
    def __init__(self, quiet): self.quiet=quiet
    def plan(self, p): print(len(p.segments))
    def warn(self, s): print("warn", s)
    def resuming(self, s): print("resume", s)
    def finished(self, p, f, r): print(r)
    def finished_before(self, f, r): print(r)
    def report(self, *a): pass
    @contextlib.contextmanager
    def training(self, p, f, rows):
        yield lambda rows: print(rows[0], rows[1:] and rows[-1]['accuracy'])
