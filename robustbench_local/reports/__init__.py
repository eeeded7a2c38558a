"""Reports of a run for readers, reviewers, spreadsheets and pipelines. They only read the store."""

from typing import TYPE_CHECKING

from robustbench_local.lazy_names import make_module_getattr

if TYPE_CHECKING:
    from robustbench_local.reports.damaged_images import find_damaged_images
    from robustbench_local.reports.report_files import write_report, write_report_files

__all__ = ["find_damaged_images", "write_report", "write_report_files"]

__getattr__ = make_module_getattr(
    __name__,
    {
        "find_damaged_images": "damaged_images",
        "write_report": "report_files",
        "write_report_files": "report_files",
    },
)
