"""What people look at: tables, learning curves, report.md, TensorBoard events and the progress display."""

from jopt.report.curves import compare_runs as compare_runs
from jopt.report.curves import learning_curves as learning_curves
from jopt.report.curves import save_figure as save_figure
from jopt.report.markdown import report_markdown as report_markdown
from jopt.report.progress import Progress as Progress
from jopt.report.tables import Table as Table
from jopt.report.tables import model_table as model_table
from jopt.report.tables import plan_table as plan_table
from jopt.report.tables import result_table as result_table
from jopt.report.tables import results_table as results_table
from jopt.report.tables import show as show
from jopt.report.tables import to_markdown as to_markdown
from jopt.report.tables import to_rich as to_rich
from jopt.report.tensorboard import Writer as Writer
from jopt.report.tensorboard import rewrite as rewrite
