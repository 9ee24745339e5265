// Runs before the first paint, so that a chosen theme never flashes in the other one.
{
  const chosen = localStorage.getItem("candor-theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
}
