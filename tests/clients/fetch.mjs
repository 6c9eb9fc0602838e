// Calls with Node's own fetch: reads one order per line, answers with one line.
import { createInterface } from "node:readline";

function init(order) {
  const init = { method: order.method, headers: order.headers, redirect: "manual", signal: AbortSignal.timeout(order.patience * 1000) };
  const pieces = order.pieces?.map((piece) => Buffer.from(piece, "base64"));
  if (pieces && order.chunked) {
    init.body = new ReadableStream({
      pull: (to) => (pieces.length ? to.enqueue(pieces.shift()) : to.close()),
    });
    init.duplex = "half";
  } else if (pieces) {
    init.body = Buffer.concat(pieces);
  }
  return init;
}

async function call(order) {
  const got = await fetch(order.url, init(order));
  const body = Buffer.from(await got.arrayBuffer()).toString("base64");
  return { status: got.status, headers: [...got.headers], body };
}

for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  let told;
  try {
    told = { answers: await Promise.all(Array.from({ length: order.count }, () => call(order))) };
  } catch (error) {
    told = { error: `${error} ${error.cause ?? ""}` };
  }
  console.log(JSON.stringify(told));
}
