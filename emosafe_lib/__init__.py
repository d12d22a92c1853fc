"""emosafe: how emotional-safety classification scales with model size, as a course one can run.

The notebooks tell the study; this library does the work. Nothing heavy is imported here, so that
`import emosafe_lib` stays instant when thirty notebooks start after one another.
"""

__version__ = "0.1.0"
