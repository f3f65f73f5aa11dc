'use strict';
(() => {
  const $ = (id) => document.getElementById(id);
  const readings = [];
  let socket = null;
  let last = null;
  let wait = 1000;

  function link(text, state) {
    $('link').textContent = text;
    $('link').className = 'link ' + state;
  }

  function connect() {
    socket = new WebSocket(location.origin.replace('http', 'ws') + '/live');
    let opened = false;
    socket.onopen = () => { opened = true; wait = 1000; link('Live', 'on'); };
    socket.onmessage = (message) => {
      const data = JSON.parse(message.data);
      if (!Array.isArray(data)) return show(data);
      readings.length = 0;
      data.forEach(show);
    };
    socket.onclose = (event) => {
      // A vain attempt to come back doesn't hide why the connection ended.
      if (opened) link(event.reason ? 'Cut by the gate: ' + event.reason : 'Connection closed', 'off');
      else if (!last) link('No connection', 'off');
      setTimeout(connect, wait);
      wait = Math.min(wait * 2, 15000);
    };
  }

  function show(reading) {
    last = reading;
    readings.push(reading);
    while (readings.length && readings[0].time < reading.time - 60) readings.shift();
    $('level').textContent = reading.level.toFixed(1);
    $('setpoint').textContent = reading.setpoint.toFixed(0);
    $('pump').textContent = reading.pump.toFixed(0);
    $('turns').textContent = reading.running ? 'rpm' : 'rpm, off';
    $('flow').textContent = reading.inflow.toFixed(1) + ' / ' + reading.outflow.toFixed(1);
    const height = 1.96 * reading.level;
    $('water').setAttribute('y', 208 - height);
    $('water').setAttribute('height', height);
    const mark = 208 - 1.96 * reading.setpoint;
    $('mark').setAttribute('y1', mark);
    $('mark').setAttribute('y2', mark);
  }

  function draw() {
    const canvas = $('chart');
    const scale = window.devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    const pen = canvas.getContext('2d');
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    const left = 34;
    const y = (percent) => 8 + (height - 16) * (1 - percent / 100);
    pen.font = '12px system-ui, sans-serif';
    pen.textAlign = 'right';
    pen.textBaseline = 'middle';
    pen.lineWidth = 1;
    for (const percent of [0, 25, 50, 75, 100]) {
      pen.strokeStyle = '#22303a';
      pen.beginPath(); pen.moveTo(left, y(percent)); pen.lineTo(width, y(percent)); pen.stroke();
      pen.fillStyle = '#93a6b2';
      pen.fillText(percent, left - 8, y(percent));
    }
    if (last) {
      const x = (time) => width - (last.time - time) / 60 * (width - left);
      const line = (color, weight, value) => {
        pen.strokeStyle = color;
        pen.lineWidth = weight;
        pen.beginPath();
        readings.forEach((reading, index) => {
          const to = [x(reading.time), y(value(reading))];
          if (index) pen.lineTo(...to); else pen.moveTo(...to);
        });
        pen.stroke();
      };
      line('#7bd389', 1.5, (reading) => reading.pump / 14.8);
      line('#f2b84b', 2, (reading) => reading.setpoint);
      line('#3fa7d6', 3, (reading) => reading.level);
    }
    requestAnimationFrame(draw);
  }

  function answer(text, refused, decision) {
    const place = $('answer');
    place.textContent = text.replace(/\.\.+$/, '.');
    place.className = refused ? 'answer refused' : 'answer';
    if (decision) {
      const code = document.createElement('code');
      code.textContent = decision;
      place.append(' Decision ', code, '.');
    }
    place.hidden = false;
    place.scrollIntoView({ block: 'nearest' });
  }

  $('wanted').addEventListener('input', () => { $('shown').textContent = $('wanted').value; });

  $('form').addEventListener('submit', async (event) => {
    event.preventDefault();
    const wanted = Number($('wanted').value);
    try {
      const response = await fetch('/api/setpoint', {
        method: 'POST',
        headers: { 'content-type': 'application/json', accept: 'application/json' },
        body: JSON.stringify({ setpoint: wanted }),
      });
      const decision = response.headers.get('x-wicketgate-decision');
      const body = await response.json().catch(() => ({}));
      if (response.ok) answer('The set-point is ' + wanted + ' %.', false);
      else if (response.status === 401) answer('You are signed out. Load the page again to sign in.', true, decision);
      else answer('The gate refused this: ' + (body.detail || body.title || body.error || response.status) + '.', true, decision);
    } catch {
      answer('The request did not get through.', true);
    }
  });

  $('send').addEventListener('click', () => {
    const wanted = Number($('wanted').value);
    if (!socket || socket.readyState !== WebSocket.OPEN) {
      answer('There is no live connection.', true);
      return;
    }
    socket.send(JSON.stringify({ setpoint: wanted }));
    setTimeout(() => {
      if (last && last.setpoint === wanted) answer('The set-point is ' + wanted + ' %.', false);
      else answer('Nothing changed: the gate dropped the message, because you may look and not operate.', true);
    }, 800);
  });

  connect();
  requestAnimationFrame(draw);
})();
