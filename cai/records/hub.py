"""The one call that gives a data set away: everything before it is a folder that can be looked at."""

from pathlib import Path

from cai.errors import InputError, Problem, StorageError


def check_repo(name: str) -> None:
    """Raise InputError for what is no name of a data set on the hub."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        why = str(error).partition(":")[0]
        raise InputError(Problem("--push-to-hub", 0, 0, f"{name!r} is no name ({why})", "write owner/name")) from error


def push_dataset(folder: Path, name: str, *, private: bool, endpoint: str | None = None) -> str:
    """Upload a data set's folder as one commit and return its address; the repository is made if there is none.

    The token is the hub library's own (``HF_TOKEN``, or what ``hf auth login`` kept). Raises StorageError when the hub
    refuses or can't be reached: the folder is as it was.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    check_repo(name)
    api = HfApi(endpoint=endpoint)
    try:
        api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=["README.md", "data/train-*"],
            delete_patterns=["data/train-*"],
            commit_message="Data set made by cai",
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, httpx.HTTPError) as error:
        why = " ".join(str(error).split()[:30])
        raise StorageError(
            f"the hub did not take {name}: {why}; {folder} is whole: mend that and give the same command again"
        ) from error
    return str(done.commit_url)
