"""papermill's engine, but for how often a notebook that runs is written down.

papermill writes the whole file before and after every cell, and executes nothing meanwhile: with its figures in it,
notebook 05 took eight seconds more for that. Here it is written every few seconds, and as it stands once the last cell has
ended or failed.
"""

from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines

NAME, SECONDS = "sparing", 5


class SparingEngine(NBClientEngine):
    """papermill's usual engine; between two cells it writes only where the last time was `SECONDS` ago."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: NotebookExecutionManager, kernel_name: str, **options):
        write = nb_man.save

        def write_now_and_then(**given) -> None:
            if (nb_man.now() - nb_man.last_save_time).total_seconds() >= SECONDS:
                write(**given)

        nb_man.save = write_now_and_then
        try:
            return super().execute_managed_notebook(nb_man, kernel_name, **options)
        finally:
            nb_man.save = write


papermill_engines.register(NAME, SparingEngine)
