// Before the first paint: the theme that was chosen here, else that of the system.
"use strict";
try {
  const chosen = localStorage.getItem("outlive-theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // storage is forbidden here: the system's theme it is
}
