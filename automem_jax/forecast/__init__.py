"""What an experiment takes, told before anything is spent, and what it took, beside that.

found = forecast(config, groups_of(config), throughput)      # ranges, a row a stage and a total
write_forecast(workdir, found)
rows = compare(workdir)                                      # forecast against actuals, for a report
"""

from automem_jax.forecast.amounts import QUANTITIES, Amounts, Range
from automem_jax.forecast.compare import (
    FORECAST_FILE,
    Compared,
    actuals,
    compare,
    read_forecast,
    write_forecast,
)
from automem_jax.forecast.recorded import Group, Groups, groups_of, measure_workdir
from automem_jax.forecast.stages import Forecast, Throughput, forecast

__all__ = [
    "FORECAST_FILE",
    "QUANTITIES",
    "Amounts",
    "Compared",
    "Forecast",
    "Group",
    "Groups",
    "Range",
    "Throughput",
    "actuals",
    "compare",
    "forecast",
    "groups_of",
    "measure_workdir",
    "read_forecast",
    "write_forecast",
]
