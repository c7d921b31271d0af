document.documentElement.classList.add("js");
for (const example of document.querySelectorAll(".example")) {
  const passes = example.querySelector(".passes");
  if (!passes) continue;
  const frames = [...passes.children], range = example.querySelector("input");
  const [play, all] = example.querySelectorAll("button");
  let timer = 0;
  const show = (n) => {
    range.value = n;
    frames.forEach((frame, i) => frame.classList.toggle("on", i == n));
  };
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; };
  const single = (on) => {
    passes.classList.toggle("one", on);
    all.textContent = on ? "All passes" : "One pass";
  };
  range.max = frames.length - 1;
  show(frames.length - 1);
  range.addEventListener("input", () => { stop(); single(true); show(+range.value); });
  all.addEventListener("click", () => {
    stop(); single(!passes.classList.contains("one"));
  });
  play.addEventListener("click", () => {
    if (timer) return stop();
    let n = 0;
    single(true); show(0); play.textContent = "Stop";
    timer = setInterval(() => { ++n < frames.length ? show(n) : stop(); }, 700);
  });
}
